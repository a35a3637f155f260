// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/sweep_plan.h"

#include <map>
#include <numeric>

#include "support/catch.h"

using namespace flexgen;

namespace {

Span span_of(SequenceId id, int64_t n, int64_t first_position, int64_t first_logits) {
  Span s{id, {}, first_position, first_logits};
  s.tokens.resize(static_cast<size_t>(n));
  std::iota(s.tokens.begin(), s.tokens.end(), static_cast<int32_t>(100 * id));
  return s;
}

}  // namespace

TEST_CASE("packing keeps every token once, in order, within the limits", "[runtime]") {
  for (const int64_t max_spans : {1, 2, 5})
    for (const int64_t max_tokens : {1, 3, 7, 100}) {
      CAPTURE(max_spans, max_tokens);
      const SweepPlan plan =
          pack({span_of(1, 9, 4, 8), span_of(2, 1, 30, 0), span_of(3, 1, 7, 0), span_of(4, 20, 0, 20), span_of(5, 2, 0, 0)}, max_spans, max_tokens);
      std::map<SequenceId, std::vector<int32_t>> tokens;
      std::map<SequenceId, int64_t> next{{1, 4}, {2, 30}, {3, 7}, {4, 0}, {5, 0}};
      std::map<SequenceId, std::vector<int64_t>> wanted;
      int64_t total = 0;
      for (const MicroBatch& m : plan.micro_batches) {
        CHECK(!m.spans.empty());
        CHECK(static_cast<int64_t>(m.spans.size()) <= max_spans);
        CHECK(m.n_tok() <= max_tokens);
        total += m.n_tok();
        for (const Span& s : m.spans) {
          CHECK(s.first_position == next[s.sequence]);
          next[s.sequence] = s.end();
          tokens[s.sequence].insert(tokens[s.sequence].end(), s.tokens.begin(), s.tokens.end());
          CHECK(s.first_logits >= 0);
          CHECK(s.first_logits <= s.n_tok());
          for (int64_t t = s.first_logits; t < s.n_tok(); ++t) wanted[s.sequence].push_back(s.first_position + t);
        }
      }
      CHECK(total == 33);
      CHECK(plan.n_tok() == 33);
      for (const auto& [id, list] : tokens)
        for (size_t i = 0; i < list.size(); ++i) CHECK(list[i] == static_cast<int32_t>(100 * id + i));
      CHECK(wanted == std::map<SequenceId, std::vector<int64_t>>{{1, {12}}, {2, {30}}, {3, {7}}, {5, {0, 1}}});
    }
}

TEST_CASE("a token is drawn from the last piece of what was cut", "[runtime]") {
  Span cut = span_of(1, 7, 0, 6), other = span_of(2, 2, 0, 1);
  cut.draw = Draw{.uniform = 0.5};
  const SweepPlan plan = pack({cut, other}, 4, 3);
  REQUIRE(plan.micro_batches.size() == 3);
  CHECK((!plan.micro_batches[0].spans[0].draw && !plan.micro_batches[1].spans[0].draw));
  CHECK(plan.micro_batches[2].spans[0].draw == cut.draw);
  CHECK(!plan.micro_batches[2].spans[1].draw);
}

TEST_CASE("nothing to do makes an empty plan", "[runtime]") { CHECK(pack({}, 4, 4).micro_batches.empty()); }
