// SPDX-License-Identifier: Apache-2.0
// The forward pass of a model as a value: steps of operations over the activations of a micro-batch. A family writes its program once;
// the sweep interprets it and knows no family.
//
// OPT (HF modeling_opt.py, OPTDecoder and OPTDecoderLayer). h is the hidden state, a and b are scratch:
//   embed   h = tokens[ids] (+ project_in);  h += positions[pos + offset]
//   attn    a = norm(h);  b = qkv(a);  a = attention(b);  h += out(a)          post-norm: b = qkv(h); ...; h = norm(h + out(a))
//   mlp     a = norm(h);  b = act(fc1(a));  h += fc2(b)                        post-norm: b = act(fc1(h)); h = norm(h + fc2(b))
//   head    a = norm(h);  (b = project_out(a));  logits = a or b times tokens^T
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "flexgen/model/records.h"

namespace flexgen {

// A tensor of the model by its place in records(): stable for a model's lifetime
struct TensorRef {
  size_t record = 0;
  size_t tensor = 0;  // in the record

  bool operator==(const TensorRef&) const = default;
};

// Activations of a micro-batch, each [T, width of the slot] f32
enum class Slot : uint8_t { hidden, a, b, logits };
inline constexpr size_t kSlots = 4;

struct Operation {
  enum class Kind : uint8_t {
    embed_tokens,     // out = weight[token ids]
    embed_positions,  // out += weight[positions + position_offset]
    norm,             // out = layer_norm(in; weight, bias), either may be absent
    linear,           // out = act(in weight^T + bias), or out += with accumulate
    attend,           // in holds q, k, v side by side; appends k and v to the cache; out = attention
  };
  Kind kind;
  const char* name = "";  // "qkv", "attend": for people who look at a timeline
  Slot in = Slot::hidden;
  Slot out = Slot::hidden;
  std::optional<TensorRef> weight, bias;
  Activation activation = Activation::none;
  bool accumulate = false;
};

// Operations between two points where state is handed over. A step reads the weights of its own record (and a tied head those of the
// embedding).
struct Step {
  std::string name;
  int64_t layer = -1;  // it belongs to, and whose KV pages it attends to; -1: none
  std::vector<Operation> operations;
};

struct Program {
  std::array<int64_t, kSlots> width{};  // floats a token has in each slot
  std::array<int64_t, kSlots> head_width{};  // the same while the head runs
  std::vector<Step> body;               // over all tokens
  Step head;                            // over the tokens whose logits are wanted, gathered into Slot::hidden
};

inline Program opt_program(const ModelDescription& m) {
  std::unordered_map<std::string, TensorRef> where;
  const std::vector<RecordSpec> all = records(m);
  for (size_t r = 0; r < all.size(); ++r)
    for (size_t t = 0; t < all[r].tensors.size(); ++t) where[all[r].tensors[t].name] = {r, t};

  using Kind = Operation::Kind;
  const auto ref = [&](const std::string& name) -> std::optional<TensorRef> {
    const auto it = where.find(name);
    return it == where.end() ? std::nullopt : std::optional(it->second);
  };
  const auto norm = [&](const std::string& record, Slot in, Slot out) {
    return Operation{Kind::norm, "norm", in, out, ref(record + ".norm.weight"), ref(record + ".norm.bias")};
  };
  const auto linear = [&](const std::string& record, const char* name, Slot in, Slot out, Activation act = Activation::none,
                          bool accumulate = false) {
    const std::string matrix = record + "." + name;
    return Operation{Kind::linear, name, in, out, ref(matrix + ".weight"), ref(matrix + ".bias"), act, accumulate};
  };
  const auto bare_linear = [&](const std::string& matrix, const char* name, Slot in, Slot out) {
    return Operation{Kind::linear, name, in, out, ref(matrix), std::nullopt};
  };

  Program p;
  const int64_t qkv = (m.n_heads + 2 * m.n_kv_heads) * m.head_dim;
  p.width = {m.width, std::max({m.width, m.n_heads * m.head_dim, m.has_projection() ? m.embed_width : 0}), std::max(qkv, m.ffn), 0};
  p.head_width = {m.width, m.width, m.embed_width, m.vocab};

  Step embed{"embed", -1, {}};
  embed.operations.push_back(
      {Kind::embed_tokens, "embed", Slot::hidden, m.has_projection() ? Slot::a : Slot::hidden, ref("embed.tokens"), std::nullopt});
  if (m.has_projection()) embed.operations.push_back(bare_linear("embed.project_in", "project_in", Slot::a, Slot::hidden));
  embed.operations.push_back(
      {Kind::embed_positions, "positions", Slot::hidden, Slot::hidden, ref("embed.positions"), std::nullopt, Activation::none, true});
  p.body.push_back(std::move(embed));

  const bool pre = m.norm == NormPlace::pre;
  const Slot normed = pre ? Slot::a : Slot::hidden;
  for (int64_t i = 0; i < m.n_layers; ++i) {
    const std::string attention = attention_record(i), mlp = mlp_record(i);
    Step s{attention, i, {}};
    if (pre) s.operations.push_back(norm(attention, Slot::hidden, Slot::a));
    s.operations.push_back(linear(attention, "qkv", normed, Slot::b));
    s.operations.push_back({Kind::attend, "attend", Slot::b, Slot::a, std::nullopt, std::nullopt});
    s.operations.push_back(linear(attention, "out", Slot::a, Slot::hidden, Activation::none, true));
    if (!pre) s.operations.push_back(norm(attention, Slot::hidden, Slot::hidden));
    p.body.push_back(std::move(s));

    s = {mlp, i, {}};
    if (pre) s.operations.push_back(norm(mlp, Slot::hidden, Slot::a));
    s.operations.push_back(linear(mlp, "fc1", normed, Slot::b, m.activation));
    s.operations.push_back(linear(mlp, "fc2", Slot::b, Slot::hidden, Activation::none, true));
    if (!pre) s.operations.push_back(norm(mlp, Slot::hidden, Slot::hidden));
    p.body.push_back(std::move(s));
  }

  p.head = {"head", -1, {}};
  Slot last = Slot::hidden;
  if (m.final_norm) p.head.operations.push_back(norm("head", last, Slot::a)), last = Slot::a;
  if (m.has_projection()) p.head.operations.push_back(bare_linear("head.project_out", "project_out", last, Slot::b)), last = Slot::b;
  p.head.operations.push_back(bare_linear(m.tied_head ? "embed.tokens" : "head.logits", "logits", last, Slot::logits));
  return p;
}

}  // namespace flexgen
