// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/program.h"

#include <set>

#include "support/catch.h"

using namespace flexgen;

namespace {

ModelDescription model(NormPlace norm, int64_t embed_width, bool tied) {
  ModelDescription m;
  m.n_layers = 2, m.width = 64, m.ffn = 256, m.n_heads = m.n_kv_heads = 4, m.head_dim = 16, m.vocab = 100, m.embed_width = embed_width,
  m.max_positions = 32;
  m.position_offset = 2, m.norm = norm, m.final_norm = norm == NormPlace::pre, m.tied_head = tied;
  return m;
}

}  // namespace

TEST_CASE("a program uses every tensor of the model, and nothing else", "[model]") {
  for (const NormPlace norm : {NormPlace::pre, NormPlace::post})
    for (const int64_t embed_width : {64, 32})
      for (const bool tied : {true, false})
        for (const bool bias : {true, false}) {
          ModelDescription m = model(norm, embed_width, tied);
          m.bias = m.norm_affine = bias;
          const Program p = opt_program(m);
          std::set<std::pair<size_t, size_t>> used, all;
          const auto note = [&](const Step& s) {
            for (const Operation& op : s.operations) {
              CHECK((op.weight || op.kind == Operation::Kind::attend || (op.kind == Operation::Kind::norm && !bias)));
              if (op.weight) used.insert({op.weight->record, op.weight->tensor});
              if (op.bias) used.insert({op.bias->record, op.bias->tensor});
            }
          };
          for (const Step& s : p.body) note(s);
          note(p.head);
          const auto records_of_model = records(m);
          for (size_t r = 0; r < records_of_model.size(); ++r)
            for (size_t t = 0; t < records_of_model[r].tensors.size(); ++t) all.insert({r, t});
          CHECK(used == all);
          CHECK(p.body.size() == 5);
          CHECK(p.head.operations.back().out == Slot::logits);
        }
}

TEST_CASE("norms stand before or after, as the model says", "[model]") {
  const Program pre = opt_program(model(NormPlace::pre, 64, true)), post = opt_program(model(NormPlace::post, 64, true));
  CHECK(pre.body[1].operations.front().kind == Operation::Kind::norm);
  CHECK(pre.body[1].operations.back().kind == Operation::Kind::linear);
  CHECK(post.body[1].operations.front().kind == Operation::Kind::linear);
  CHECK(post.body[1].operations.back().kind == Operation::Kind::norm);
  CHECK(pre.body[1].layer == 0);
  CHECK(pre.body[3].layer == 1);
  CHECK(pre.body[0].layer == -1);
  CHECK(pre.body[2].layer == 0);
  CHECK(pre.head.layer == -1);
}

TEST_CASE("operations have names", "[model]") {
  const auto names = [](const Step& s) {
    std::string out;
    for (const Operation& op : s.operations) out += std::string(out.empty() ? "" : " ") + op.name;
    return out;
  };
  const Program plain = opt_program(model(NormPlace::pre, 64, true)), projected = opt_program(model(NormPlace::post, 32, true));
  CHECK(names(plain.body[0]) == "embed positions");
  CHECK(names(plain.body[1]) == "norm qkv attend out");
  CHECK(names(plain.body[2]) == "norm fc1 fc2");
  CHECK(names(plain.head) == "norm logits");
  CHECK(names(projected.body[0]) == "embed project_in positions");
  CHECK(names(projected.body[1]) == "qkv attend out norm");
  CHECK(names(projected.head) == "project_out logits");
}
