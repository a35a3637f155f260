// SPDX-License-Identifier: Apache-2.0
// References of kv_append and attention: the softmax over all positions at once, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
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

inline void attention(const AttentionArgs& a, Queue) {
  const KvLayout& l = a.layout;
  std::vector<double> p, o(static_cast<size_t>(l.head_dim));
  for (const KvSpan& s : a.spans)
    for (int64_t i = 0; i < s.n_tok; ++i)
      for (int64_t h = 0; h < a.n_heads; ++h) {
        const int64_t kv_head = h / (a.n_heads / l.n_heads), n_positions = s.first_position + i + 1;
        const float* q = a.q.row(s.first_row + i) + h * l.head_dim;
        const auto load = [&](std::byte* const* pages, int64_t position, int64_t d) {
          return static_cast<double>(load_element(l.dtype, pages[position / l.page_tokens], page_index(l, kv_head, position) + static_cast<size_t>(d)));
        };
        p.assign(static_cast<size_t>(n_positions), 0);
        double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
        for (int64_t j = 0; j < n_positions; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < l.head_dim; ++d) dot += static_cast<double>(q[d]) * load(s.k_pages, j, d);
          p[static_cast<size_t>(j)] = dot * static_cast<double>(a.scale);
          maximum = std::max(maximum, p[static_cast<size_t>(j)]);
        }
        std::fill(o.begin(), o.end(), 0.0);
        for (int64_t j = 0; j < n_positions; ++j) {
          const double e = std::exp(p[static_cast<size_t>(j)] - maximum);
          sum += e;
          for (int64_t d = 0; d < l.head_dim; ++d) o[static_cast<size_t>(d)] += e * load(s.v_pages, j, d);
        }
        for (int64_t d = 0; d < l.head_dim; ++d) a.y.row(s.first_row + i)[h * l.head_dim + d] = static_cast<float>(o[static_cast<size_t>(d)] / sum);
      }
}

}  // namespace flexgen::ref
