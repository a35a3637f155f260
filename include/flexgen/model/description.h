// SPDX-License-Identifier: Apache-2.0
// A model as data: shapes and switches that the forward pass obeys. A family (OPT here) is a function from its config.json to this.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/ops/ops.h"

namespace flexgen {

enum class NormPlace { pre, post };  // x + f(norm(x))  |  norm(x + f(x))

struct ModelDescription {
  std::string family = "opt";
  int64_t n_layers = 0;         // L
  int64_t width = 0;            // E
  int64_t ffn = 0;              // F
  int64_t n_heads = 0;          // H
  int64_t n_kv_heads = 0;       // Hk
  int64_t head_dim = 0;         // D
  int64_t vocab = 0;            // V, rows of the embedding; the tokenizer may have fewer
  int64_t embed_width = 0;      // W; projections in and out where it differs from E
  int64_t max_positions = 0;    // tokens a sequence may have
  int64_t position_offset = 0;  // row of the position table for position 0; OPT: 2 (HF modeling_opt.py, OPTLearnedPositionalEmbedding)
  Activation activation = Activation::relu;
  NormPlace norm = NormPlace::pre;
  float norm_eps = 1e-5f;
  bool final_norm = true;
  bool bias = true;             // linear layers have biases
  bool norm_affine = true;      // norms have weight and bias
  bool tied_head = true;        // logits use the embedding matrix

  bool has_projection() const { return embed_width != width; }
};

}  // namespace flexgen
