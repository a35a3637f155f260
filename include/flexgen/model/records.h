// SPDX-License-Identifier: Apache-2.0
// The records of a model in execution order, and the tensors in each: what a model file holds and what the forward pass asks for.
//
//   embed            tokens [V, W]   positions [P + offset, E]   project_in [E, W] (where W != E)
//   layers.N.attn    norm.weight [E]   norm.bias [E]   qkv.bias [3E]   out.bias [E]   qkv.weight [(H + 2 Hk) D, E]: rows of q, then k, then v
//                    out.weight [E, H D]
//   layers.N.mlp     norm.weight   norm.bias   fc1.bias [F]   fc2.bias [E]   fc1.weight [F, E]   fc2.weight [E, F]
//   head             norm.weight   norm.bias (where there is a final norm)   project_out [W, E] (where W != E)   logits [V, W] (untied)
//
// Vectors come before matrices: they share one row block. A tied head reads embed.tokens.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "flexgen/model/description.h"
#include "flexgen/tensor/shape.h"

namespace flexgen {

struct TensorSpec {
  std::string name;  // unique in the file: "<record>.<tensor>"
  Shape shape;       // [n] or [rows, cols]
};

struct RecordSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
};

inline std::string attention_record(int64_t layer) { return fmt::format("layers.{}.attn", layer); }
inline std::string mlp_record(int64_t layer) { return fmt::format("layers.{}.mlp", layer); }

inline std::vector<RecordSpec> records(const ModelDescription& m) {
  std::vector<RecordSpec> out;
  const auto add = [&out](std::string name) { out.push_back({std::move(name), {}}); };
  const auto tensor = [&out](const char* name, Shape shape) { out.back().tensors.push_back({out.back().name + "." + name, std::move(shape)}); };
  const auto norm = [&](bool present) {
    if (!present || !m.norm_affine) return;
    tensor("norm.weight", {m.width});
    tensor("norm.bias", {m.width});
  };
  const int64_t qkv_rows = (m.n_heads + 2 * m.n_kv_heads) * m.head_dim;

  add("embed");
  tensor("tokens", {m.vocab, m.embed_width});
  tensor("positions", {m.max_positions + m.position_offset, m.width});
  if (m.has_projection()) tensor("project_in", {m.width, m.embed_width});
  for (int64_t i = 0; i < m.n_layers; ++i) {
    add(attention_record(i));
    norm(true);
    if (m.bias) tensor("qkv.bias", {qkv_rows}), tensor("out.bias", {m.width});
    tensor("qkv.weight", {qkv_rows, m.width});
    tensor("out.weight", {m.width, m.n_heads * m.head_dim});
    add(mlp_record(i));
    norm(true);
    if (m.bias) tensor("fc1.bias", {m.ffn}), tensor("fc2.bias", {m.width});
    tensor("fc1.weight", {m.ffn, m.width});
    tensor("fc2.weight", {m.width, m.ffn});
  }
  add("head");
  norm(m.final_norm);
  if (m.has_projection()) tensor("project_out", {m.embed_width, m.width});
  if (!m.tied_head) tensor("logits", {m.vocab, m.embed_width});
  if (out.back().tensors.empty()) out.pop_back();
  return out;
}

}  // namespace flexgen
