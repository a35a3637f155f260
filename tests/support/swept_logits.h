// SPDX-License-Identifier: Apache-2.0
// Golden sequences through a sweep, and the logits that come out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "flexgen/runtime/sweep.h"
#include "support/golden.h"

namespace flexgen::testing {

struct Shape3 {
  int64_t max_spans, max_tokens, piece;  // tokens of a sequence that a sweep takes at most
};

// logits of every position of every sequence, [n_tok, V] each
inline std::vector<std::vector<float>> swept_logits(Sweep& sweep, KvStore& cache, int64_t vocab, const std::vector<GoldenSequence>& sequences,
                                                    Shape3 shape) {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<SequenceId> ids;
  std::vector<std::vector<float>> out;
  for (const GoldenSequence& s : sequences) {
    auto& t = tokens.emplace_back(s.prompt_tokens);
    t.insert(t.end(), s.tokens.begin(), s.tokens.end() - 1);
    ids.push_back(cache.create());
    out.emplace_back(t.size() * static_cast<size_t>(vocab), std::nanf(""));
  }
  for (bool more = true; more;) {
    more = false;
    std::vector<Span> spans;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t done = cache.length(ids[i]), n = std::min<int64_t>(shape.piece, static_cast<int64_t>(tokens[i].size()) - done);
      if (n == 0) continue;
      more = true;
      spans.push_back({ids[i], {tokens[i].begin() + done, tokens[i].begin() + done + n}, done, 0});
    }
    const SweepPlan plan = pack(std::move(spans), shape.max_spans, shape.max_tokens);
    sweep.run(plan, [&](const LogitsRow& row) {
      const Span& s = plan.micro_batches[row.micro_batch].spans[row.span];
      const size_t i = static_cast<size_t>(std::find(ids.begin(), ids.end(), s.sequence) - ids.begin());
      std::copy(row.values.begin(), row.values.end(), out[i].begin() + (s.first_position + row.token) * vocab);
    });
    for (const MicroBatch& m : plan.micro_batches)
      for (const Span& s : m.spans) cache.commit(s.sequence, s.n_tok());
  }
  return out;
}

// largest difference over the largest logit; infinity where anything is not a number
inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(d <= worst)) worst = std::isfinite(d) ? d : INFINITY;
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
  }
  return worst / largest;
}

inline bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  return true;
}

// sequences of several pages, made of those of a golden checkpoint; they are no longer golden
inline std::vector<GoldenSequence> longer(const Golden& g) {
  std::vector<GoldenSequence> sequences = g.sequences;
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto& t = sequences[i].prompt_tokens;
    while (t.size() < 60 + 10 * i) t.push_back(static_cast<int32_t>(5 + t.size() * 7 % 490));
  }
  return sequences;
}
inline int64_t longest(const std::vector<GoldenSequence>& sequences) {
  int64_t n = 0;
  for (const GoldenSequence& s : sequences) n = std::max(n, static_cast<int64_t>(s.prompt_tokens.size() + s.tokens.size()) - 1);
  return n;
}

}  // namespace flexgen::testing
