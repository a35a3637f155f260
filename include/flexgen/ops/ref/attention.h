// SPDX-License-Identifier: Apache-2.0
// References of kv_append, attention, its parts and their merge: the softmax over all positions at once, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "flexgen/ops/backend.h"
#include "flexgen/tensor/half.h"

namespace flexgen::ref {

// element index within its page of (head, position, 0)
inline size_t page_index(const KvLayout& l, int64_t head, int64_t position) {
  return static_cast<size_t>((head * l.page_tokens + position % l.page_tokens) * l.head_dim);
}

inline void kv_append(const KvAppendArgs& a, Queue) {
  const KvLayout& l = a.layout;
  for (const KvSpan& s : a.spans)
    for (int64_t i = 0; i < s.n_tok; ++i) {
      const int64_t position = s.first_position + i;
      for (int64_t h = 0; h < l.n_heads; ++h)
        for (int64_t d = 0; d < l.head_dim; ++d) {
          const size_t to = page_index(l, h, position) + static_cast<size_t>(d);
          store_element(l.dtype, s.k_pages[position / l.page_tokens], to, a.k.row(s.first_row + i)[h * l.head_dim + d]);
          store_element(l.dtype, s.v_pages[position / l.page_tokens], to, a.v.row(s.first_row + i)[h * l.head_dim + d]);
        }
    }
}

// Positions that a token sees of a range, all at once, in double: o not divided
struct SeenPositions {
  std::vector<double> o;
  double maximum = -std::numeric_limits<double>::infinity();
  double sum = 0;
};

inline SeenPositions attend(const KvLayout& l, const KvSpan& s, const float* q, int64_t kv_head, float scale, int64_t begin, int64_t end) {
  SeenPositions r;
  r.o.assign(static_cast<size_t>(l.head_dim), 0.0);
  const auto load = [&](std::byte* const* pages, int64_t position, int64_t d) {
    return static_cast<double>(load_element(l.dtype, pages[position / l.page_tokens], page_index(l, kv_head, position) + static_cast<size_t>(d)));
  };
  std::vector<double> score;
  for (int64_t j = begin; j < end; ++j) {
    double dot = 0;
    for (int64_t d = 0; d < l.head_dim; ++d) dot += static_cast<double>(q[d]) * load(s.k_pages, j, d);
    score.push_back(dot * static_cast<double>(scale));
    r.maximum = std::max(r.maximum, score.back());
  }
  for (int64_t j = begin; j < end; ++j) {
    const double e = std::exp(score[static_cast<size_t>(j - begin)] - r.maximum);
    r.sum += e;
    for (int64_t d = 0; d < l.head_dim; ++d) r.o[static_cast<size_t>(d)] += e * load(s.v_pages, j, d);
  }
  return r;
}

// What a part says of one token and head
inline SeenPositions seen_in(const AttentionPartials& p, int64_t row, int64_t head, int64_t head_dim) {
  SeenPositions r;
  r.o.assign(p.o.row(row) + head * head_dim, p.o.row(row) + (head + 1) * head_dim);
  r.maximum = static_cast<double>(p.maximum.row(row)[head]);
  r.sum = static_cast<double>(p.sum.row(row)[head]);
  return r;
}

inline void add_seen(SeenPositions& sofar, const SeenPositions& next) {
  if (std::isinf(next.maximum) && next.sum == 0) return;
  const double larger = std::max(sofar.maximum, next.maximum), a = std::exp(sofar.maximum - larger), b = std::exp(next.maximum - larger);
  sofar.maximum = larger;
  sofar.sum = sofar.sum * a + next.sum * b;
  for (size_t d = 0; d < sofar.o.size(); ++d) sofar.o[d] = sofar.o[d] * a + next.o[d] * b;
}

inline void divide(const SeenPositions& r, float* y) {
  for (const double o : r.o) *y++ = static_cast<float>(o / r.sum);
}

inline void attention(const AttentionArgs& a, Queue) {
  const KvLayout& l = a.layout;
  for (size_t n = 0; n < a.spans.size(); ++n) {
    const KvSpan& s = a.spans[n];
    const PositionRange range = a.ranges.empty() ? PositionRange{0, s.first_position + s.n_tok} : a.ranges[n];
    for (int64_t i = 0; i < s.n_tok; ++i)
      for (int64_t h = 0; h < a.n_heads; ++h) {
        const int64_t row = s.first_row + i;
        SeenPositions r = attend(l, s, a.q.row(row) + h * l.head_dim, h / (a.n_heads / l.n_heads), a.scale, range.begin,
                                 std::min(range.end, s.first_position + i + 1));
        if (a.before) {
          const SeenPositions here = std::move(r);
          r = seen_in(*a.before, row, h, l.head_dim);
          add_seen(r, here);
        }
        divide(r, a.y.row(row) + h * l.head_dim);
      }
  }
}

inline void attention_partial(const AttentionPartialArgs& a, Queue) {
  const KvLayout& l = a.layout;
  for (size_t n = 0; n < a.spans.size(); ++n) {
    const KvSpan& s = a.spans[n];
    for (int64_t i = 0; i < s.n_tok; ++i)
      for (int64_t h = 0; h < a.n_heads; ++h) {
        const int64_t row = s.first_row + i;
        const SeenPositions r = attend(l, s, a.q.row(row) + h * l.head_dim, h / (a.n_heads / l.n_heads), a.scale, a.ranges[n].begin,
                                       std::min(a.ranges[n].end, s.first_position + i + 1));
        for (int64_t d = 0; d < l.head_dim; ++d) a.o.row(row)[h * l.head_dim + d] = static_cast<float>(r.o[static_cast<size_t>(d)]);
        a.maximum.row(row)[h] = static_cast<float>(r.maximum);
        a.sum.row(row)[h] = static_cast<float>(r.sum);
      }
  }
}

inline void attention_merge(const AttentionMergeArgs& a, Queue) {
  for (int64_t t = 0; t < a.y.rows; ++t)
    for (int64_t h = 0; h < a.n_heads; ++h) {
      SeenPositions r = seen_in(a.parts.front(), t, h, a.head_dim);
      for (const AttentionPartials& p : a.parts.subspan(1)) add_seen(r, seen_in(p, t, h, a.head_dim));
      divide(r, a.y.row(t) + h * a.head_dim);
    }
}

}  // namespace flexgen::ref
