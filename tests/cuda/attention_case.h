// SPDX-License-Identifier: Apache-2.0
// A batch for attention: sequences with caches in pages of their own, queries of their last tokens, and what the CPU makes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cuda/place.h"
#include "flexgen/ops/attention_partial.h"
#include "flexgen/tensor/half.h"
#include "kernels/cuda/api/attention.h"
#include "kernels/registry.h"
#include "support/compare.h"
#include "support/operands.h"

namespace flexgen::testing {

struct SequenceShape {
  int64_t positions;  // in the cache, those of the tokens included
  int64_t n_tok;
};

inline constexpr float kUntouched = -12345.0f;  // of outputs

// A span with pages for so many positions as kernels at the place see it
inline cuda::PagedSpan span_there(Place& place, const KvLayout& layout, const KvSpan& span, int64_t positions, bool written) {
  const auto pages = static_cast<size_t>((positions + layout.page_tokens - 1) / layout.page_tokens);
  const auto table = [&](std::byte* const* side) {
    std::vector<void*> there;
    for (size_t p = 0; p < pages; ++p)
      there.push_back(written ? place.output(side[p], layout.page_bytes(), "page")
                              : const_cast<std::byte*>(place.input(side[p], layout.page_bytes(), "page")));
    return place.keep(std::move(there), "page table");
  };
  return {span.first_position, static_cast<int32_t>(span.first_row), static_cast<int32_t>(span.n_tok), table(span.k_pages), table(span.v_pages)};
}

struct AttentionCase {
  KvLayout layout;
  int64_t n_heads;
  std::vector<SequenceShape> sequences;
  std::vector<PagedCache> caches;
  std::vector<KvSpan> spans;
  std::vector<float> q, y;
  int64_t rows = 0;

  AttentionCase(DType dtype, int64_t heads, int64_t kv_heads, int64_t d, int64_t page, std::vector<SequenceShape> shapes)
      : layout{dtype, kv_heads, d, page}, n_heads(heads), sequences(std::move(shapes)) {
    for (const SequenceShape& s : sequences) {
      caches.emplace_back(layout, s.positions);
      spans.push_back(caches.back().span(rows, s.n_tok, s.positions - s.n_tok));
      rows += s.n_tok;
    }
    q.assign(static_cast<size_t>(rows * n_heads * d), 0.0f);
    clear();
  }

  int64_t width() const { return n_heads * layout.head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(layout.head_dim)); }
  int32_t group() const { return static_cast<int32_t>(n_heads / layout.n_heads); }
  MatView<const float> queries() const { return {q.data(), rows, width(), width()}; }
  void clear() { y.assign(q.size(), kUntouched); }

  // Another case's cache of this sequence
  void take_cache(size_t sequence, PagedCache cache) {
    caches[sequence] = std::move(cache);
    const KvSpan old = spans[sequence];
    spans[sequence] = caches[sequence].span(old.first_row, old.n_tok, old.first_position);
  }

  void set(size_t sequence, bool key, int64_t head, int64_t position, int64_t d, float value) {
    std::byte* const page = (key ? spans[sequence].k_pages : spans[sequence].v_pages)[position / layout.page_tokens];
    store_element(layout.dtype, page, static_cast<size_t>((head * layout.page_tokens + position % layout.page_tokens) * layout.head_dim + d), value);
  }
  // q, K and V from random(); nothing behind the last position
  template <typename Fn>
  void fill(Fn&& random) {
    for (float& f : q) f = random();
    for (size_t s = 0; s < sequences.size(); ++s)
      for (int64_t h = 0; h < layout.n_heads; ++h)
        for (int64_t p = 0; p < sequences[s].positions; ++p)
          for (int64_t d = 0; d < layout.head_dim; ++d) set(s, true, h, p, d, random()), set(s, false, h, p, d, random());
  }

  cuda::AttentionArguments arguments(Place& place) {
    cuda::AttentionArguments a;
    a.q = place.input(q, "q"), a.y = place.output(y, "y"), a.q_stride = a.y_stride = width();
    a.layout = {layout.dtype, static_cast<int32_t>(layout.n_heads), static_cast<int32_t>(layout.head_dim), static_cast<int32_t>(layout.page_tokens)};
    a.n_heads = static_cast<int32_t>(n_heads), a.scale = scale();
    std::vector<cuda::PagedSpan> paged;
    for (size_t s = 0; s < spans.size(); ++s) paged.push_back(span_there(place, layout, spans[s], sequences[s].positions, false));
    a.spans = place.keep(std::move(paged), "spans");
    return a;
  }

  std::vector<cuda::PlannedSpan> planned() const {
    std::vector<cuda::PlannedSpan> p;
    for (const KvSpan& s : spans) p.push_back({s.first_position, static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.n_tok)});
    return p;
  }

  // As the CPU has it; "ref" computes in double
  std::vector<float> on_cpu(const Backend& backend) {
    std::vector<float> out(q.size());
    ThreadPool pool(1);
    attention(backend, {{q.data(), rows, width(), width()}, {out.data(), rows, width(), width()}, n_heads, scale(), layout, spans}, {&pool});
    return out;
  }
  std::vector<float> reference() { return on_cpu(*backends().back()); }
};

// Parts of a plan
struct PartMemory {
  std::vector<float> o, maximum, sum;

  PartMemory(int64_t rows, const AttentionCase& c)
      : o(static_cast<size_t>(rows * c.width()), kUntouched), maximum(static_cast<size_t>(rows * c.n_heads), kUntouched), sum(maximum) {}
  cuda::PartArrays arrays(Place& place) { return {place.output(o, "o"), place.output(maximum, "maximum"), place.output(sum, "sum")}; }
  AttentionPartials view(const AttentionCase& c) {
    return {{o.data(), c.rows, c.width(), c.width()}, {maximum.data(), c.rows, c.n_heads, c.n_heads}, {sum.data(), c.rows, c.n_heads, c.n_heads}};
  }
};

// What the launches of a plan need: of attention with its parts, and of the merge behind it
struct PlannedAttention {
  cuda::AttentionArguments attention;
  cuda::MergeArguments merge;

  PlannedAttention(Place& place, AttentionCase& c, const cuda::AttentionPlan& plan, PartMemory& parts) : attention(c.arguments(place)) {
    attention.items = place.input(plan.items, "items"), attention.n_items = static_cast<int32_t>(plan.items.size());
    attention.parts = merge.parts = parts.arrays(place);
    merge.y = attention.y, merge.y_stride = attention.y_stride;
    merge.n_heads = attention.n_heads, merge.head_dim = attention.layout.head_dim;
    merge.items = place.input(plan.merges, "merges"), merge.n_items = static_cast<int32_t>(plan.merges.size());
    merge.max_tok = plan.max_merge_tok;
  }
};

// |got - want| / |want| of whole vectors; infinite where an element is not finite
inline double relative_l2(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    error += e * e, size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(error / size);
}

// Standard normal numbers
class Normal {
 public:
  explicit Normal(uint64_t seed) : random_(seed) {}
  float operator()() {  // Box and Muller
    const double u = static_cast<double>((random_.next() >> 11) + 1) * 0x1p-53, v = static_cast<double>(random_.next() >> 11) * 0x1p-53;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979323846 * v));
  }

 private:
  Random random_;
};

}  // namespace flexgen::testing
