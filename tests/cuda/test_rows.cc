// SPDX-License-Identifier: Apache-2.0
// layer_norm, embed, kv_append and argmax as CUDA kernels: the bits of the arithmetic contract, all edges, guard bands.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "cuda/attention_case.h"
#include "cuda/place.h"
#include "flexgen/engine/softmax.h"
#include "flexgen/tensor/half.h"
#include "kernels/cuda/api/argmax.h"
#include "kernels/cuda/api/embed.h"
#include "kernels/cuda/api/kv_append.h"
#include "kernels/cuda/api/layer_norm.h"
#include "support/compare.h"
#include "support/contract.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

std::vector<float> values(size_t n, Random& random) {
  std::vector<float> v(n);
  for (float& f : v) f = random.value();
  return v;
}

std::vector<float> contract_norm(const float* x, int64_t n, const float* gamma, const float* beta, float eps, bool rms) {
  std::array<float, 16> sums{}, squares{};
  for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(i % 16)] += x[i];
  const float mean = rms ? 0.0f : lanes_sum(sums) / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    float& s = squares[static_cast<size_t>(i % 16)];
    s = std::fma(x[i] - mean, x[i] - mean, s);
  }
  const float scale = 1.0f / std::sqrt(lanes_sum(squares) / static_cast<float>(n) + eps);
  std::vector<float> y;
  for (int64_t i = 0; i < n; ++i) y.push_back(std::fma((x[i] - mean) * scale, gamma ? gamma[i] : 1.0f, beta ? beta[i] : 0.0f));
  return y;
}

// What is stored there, as f32
std::vector<float> decoded(DType dtype, const std::vector<uint16_t>& bits) {
  std::vector<float> v;
  for (size_t i = 0; i < bits.size(); ++i) v.push_back(load_element(dtype, reinterpret_cast<const std::byte*>(bits.data()), i));
  return v;
}
float rounded(DType dtype, float f) {
  std::byte bytes[4];
  store_element(dtype, bytes, 0, f);
  return load_element(dtype, bytes, 0);
}

}  // namespace

TEST_CASE("CUDA layer_norm and rms_norm have the contract's bits, with the residual's sum and the rounded copy", "[cuda]") {
  Random random(31);
  for (int32_t cols : {1, 15, 16, 17, 64, 255, 256, 257, 768, 1027})
    each_way([&](Place& place) {
      const int32_t rows = static_cast<int32_t>(random.between(1, 3));
      const bool rms = random.below(2) != 0, with_residual = random.below(2) != 0, affine = random.below(4) != 0;
      const DType type = random.below(2) ? DType::f16 : DType::bf16;
      CAPTURE(cols, rows, rms, with_residual, affine);
      const int64_t stride = cols + 3;
      const auto n = static_cast<size_t>(rows), e = static_cast<size_t>(cols);
      std::vector<float> x = values(n * static_cast<size_t>(stride), random), residual = values(x.size(), random);
      const std::vector<float> gamma = values(e, random), beta = values(e, random);
      for (size_t i = 0; i < e; ++i) x[i] += 1000;  // variance from one pass would cancel
      std::vector<float> sum(x.size(), GuardedMatrix::sentinel()), y(sum);
      std::vector<uint16_t> small(x.size(), 0xFFFF);
      std::vector<float> want_sum(sum), want_y(sum), want_small = decoded(type, small);
      for (size_t r = 0; r < n; ++r) {
        for (size_t c = 0; c < e; ++c) {
          const size_t i = r * static_cast<size_t>(stride) + c;
          want_sum[i] = with_residual ? x[i] + residual[i] : x[i];
        }
        const std::vector<float> row = contract_norm(want_sum.data() + r * static_cast<size_t>(stride), cols, affine ? gamma.data() : nullptr,
                                                     affine ? beta.data() : nullptr, 1e-5f, rms);
        for (size_t c = 0; c < e; ++c) {
          want_y[r * static_cast<size_t>(stride) + c] = row[c];
          want_small[r * static_cast<size_t>(stride) + c] = rounded(type, row[c]);
        }
      }
      cuda::NormArguments a;
      float* const x_there = place.output(x, "x");
      a.x = x_there, a.residual = with_residual ? place.input(residual, "residual") : nullptr;
      a.gamma = affine ? place.input(gamma, "gamma") : nullptr, a.beta = affine ? place.input(beta, "beta") : nullptr;
      a.sum = place.output(sum, "sum"), a.y = place.output(y, "y"), a.rounded = place.output(small, "rounded"), a.rounded_type = type;
      a.x_stride = a.residual_stride = a.sum_stride = a.y_stride = a.rounded_stride = stride;
      a.rows = rows, a.cols = cols, a.rms = rms;
      REQUIRE(place.run([&](void* stream) { return cuda::layer_norm(a, stream); }) == 0);
      CHECK(bit_difference(sum, want_sum) == "");
      CHECK(bit_difference(y, want_y) == "");
      CHECK(bit_difference(decoded(type, small), want_small) == "");
      // in place, nothing else asked for
      a.sum = nullptr, a.rounded = nullptr, a.y = x_there;
      const std::vector<float> before = x;
      REQUIRE(place.run([&](void* stream) { return cuda::layer_norm(a, stream); }) == 0);
      for (size_t i = 0; i < x.size(); ++i) want_y[i] = i % static_cast<size_t>(stride) < e ? want_y[i] : before[i];
      CHECK(bit_difference(x, want_y) == "");
    });
}

TEST_CASE("CUDA embed takes rows from anywhere, as wide as they are aligned", "[cuda]") {
  Random random(32);
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int32_t width : {1, 4, 6, 64, 516, 1000})
      each_way([&](Place& place) {
        const int32_t n_rows = 11, n_tok = static_cast<int32_t>(random.between(1, 6));
        CAPTURE(name(dtype), width, n_tok);
        BlockedWeight table(dtype, n_rows, width, random);
        const WeightView view = table.cut({-2, 3, 1, 5});  // rows 0 and 1 are nowhere, and nobody asks for them
        std::vector<const std::byte*> there;               // of each block
        for (const RowBlock& b : view.blocks) there.push_back(place.input(b.data, static_cast<size_t>(b.rows * width) * size_of(dtype), "rows"));
        std::vector<int32_t> ids;
        std::vector<const void*> rows;
        uintptr_t bits = 0;
        for (int32_t t = 0; t < n_tok; ++t) {
          ids.push_back(static_cast<int32_t>(random.between(2, n_rows - 1)));
          const RowBlock& block = row_block(view, ids.back());
          const auto row_bytes = static_cast<int64_t>(size_of(dtype)) * width;
          rows.push_back(there[static_cast<size_t>(&block - view.blocks.data())] + (ids.back() - block.first_row) * row_bytes);
          bits |= reinterpret_cast<uintptr_t>(rows.back());
        }
        cuda::EmbedArguments a;
        a.accumulate = random.below(2) != 0;
        const int64_t stride = width + (random.below(2) ? 4 : 1);
        std::vector<float> y = values(static_cast<size_t>(n_tok * stride), random), want = y;
        for (int32_t t = 0; t < n_tok; ++t)
          for (int32_t c = 0; c < width; ++c) {
            float& w = want[static_cast<size_t>(t * stride + c)];
            const float v = table.at(ids[static_cast<size_t>(t)], c);
            w = a.accumulate ? w + v : v;
          }
        a.rows = place.keep(std::move(rows), "addresses of rows"), a.row_alignment = bits & -bits, a.dtype = dtype;
        a.y = place.output(y, "y"), a.y_stride = stride, a.n_tok = n_tok, a.width = width;
        REQUIRE(place.run([&](void* stream) { return cuda::embed(a, stream); }) == 0);
        CHECK(bit_difference(y, want) == "");
      });
}

TEST_CASE("CUDA kv_append stores ragged spans into pages anywhere, as the CPU does", "[cuda]") {
  Random random(34);
  struct Shape { int64_t heads, d, page; };
  for (DType dtype : {DType::f16, DType::f32})
    for (const Shape& s : {Shape{2, 64, 32}, Shape{3, 80, 64}, Shape{1, 5, 32}, Shape{2, 128, 96}})
      each_way([&](Place& place) {
        CAPTURE(name(dtype), s.heads, s.d, s.page);
        const KvLayout layout{dtype, s.heads, s.d, s.page};
        struct Part { int64_t first, n_tok; };
        const Part parts[] = {{0, 1}, {31, 2}, {s.page - 1, 5}, {random.below(70), random.between(1, 40)}};
        std::vector<PagedCache> want, got;
        std::vector<cuda::PagedSpan> paged;
        int64_t rows = 0;
        int32_t max_tok = 0;
        for (const Part& p : parts) {
          want.emplace_back(layout, p.first + p.n_tok), got.emplace_back(layout, p.first + p.n_tok);
          rows += p.n_tok, max_tok = std::max(max_tok, static_cast<int32_t>(p.n_tok));
        }
        const int64_t stride = s.heads * s.d + 4;
        const std::vector<float> k = values(static_cast<size_t>(rows * stride), random), v = values(k.size(), random);
        rows = 0;
        for (size_t i = 0; i < want.size(); ++i) {
          const KvSpan span = got[i].span(rows, parts[i].n_tok, parts[i].first), host = want[i].span(rows, parts[i].n_tok, parts[i].first);
          paged.push_back(span_there(place, layout, span, parts[i].first + parts[i].n_tok, true));
          for (int64_t t = 0; t < host.n_tok; ++t)
            for (int64_t h = 0; h < s.heads; ++h)
              for (int64_t d = 0; d < s.d; ++d) {
                const int64_t position = host.first_position + t;
                const auto at = static_cast<size_t>((h * s.page + position % s.page) * s.d + d);
                const auto from = static_cast<size_t>((rows + t) * stride + h * s.d + d);
                store_element(dtype, host.k_pages[position / s.page], at, k[from]);
                store_element(dtype, host.v_pages[position / s.page], at, v[from]);
              }
          rows += parts[i].n_tok;
        }
        cuda::KvAppendArguments a;
        a.k = place.input(k, "k"), a.v = place.input(v, "v"), a.k_stride = a.v_stride = stride;
        a.layout = {dtype, static_cast<int32_t>(s.heads), static_cast<int32_t>(s.d), static_cast<int32_t>(s.page)};
        a.spans = place.input(paged, "spans"), a.n_spans = static_cast<int32_t>(paged.size()), a.max_tok = max_tok;
        REQUIRE(place.run([&](void* stream) { return cuda::kv_append(a, stream); }) == 0);
        for (size_t i = 0; i < want.size(); ++i) CHECK(got[i] == want[i]);
      });
}

TEST_CASE("CUDA kv_append turns keys by their position, values not", "[cuda]") {
  // D = 6, of which 4 turn; angles of position p: pair i has cos = p + i, sin = 10 p - i: no rotation, but told apart
  for (bool neighbours : {false, true})
    each_way([&](Place& place) {
      const KvLayout layout{DType::f32, 1, 6, 32};
      PagedCache cache(layout, 3);
      const KvSpan span = cache.span(0, 1, 2);
      const std::vector<float> k{1, 2, 3, 4, 5, 6}, v{7, 8, 9, 10, 11, 12};
      std::vector<float> table;
      for (int p = 0; p < 3; ++p)
        for (int i = 0; i < 2; ++i) table.push_back(static_cast<float>(p + i)), table.push_back(static_cast<float>(10 * p - i));
      cuda::KvAppendArguments a;
      a.k = place.input(k, "k"), a.v = place.input(v, "v"), a.k_stride = a.v_stride = 6, a.layout = {DType::f32, 1, 6, 32};
      a.rotary = {place.input(table, "angles"), 4, neighbours};
      a.spans = place.keep(std::vector{span_there(place, layout, span, 3, true)}, "spans"), a.n_spans = 1, a.max_tok = 1;
      REQUIRE(place.run([&](void* stream) { return cuda::kv_append(a, stream); }) == 0);
      const float* const stored = reinterpret_cast<const float*>(span.k_pages[0]) + 2 * 6;
      // pair 0: cos 2, sin 20; pair 1: cos 3, sin 19
      const std::vector<float> halves{1 * 2 - 3 * 20, 2 * 3 - 4 * 19, 3 * 2 + 1 * 20, 4 * 3 + 2 * 19, 5, 6};
      const std::vector<float> pairs{1 * 2 - 2 * 20, 2 * 2 + 1 * 20, 3 * 3 - 4 * 19, 4 * 3 + 3 * 19, 5, 6};
      CHECK(std::vector<float>(stored, stored + 6) == (neighbours ? pairs : halves));
      const float* const value = reinterpret_cast<const float*>(span.v_pages[0]) + 2 * 6;
      CHECK(std::vector<float>(value, value + 6) == v);
    });
}

TEST_CASE("CUDA argmax is the sampler's: the lowest of equal ids, -0 equals 0, what is not finite is named", "[cuda]") {
  Random random(35);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (int32_t vocabulary : {1, 2, 31, 511, 512, 513, 3000})
    each_way([&](Place& place) {
      CAPTURE(vocabulary);
      const auto n = static_cast<size_t>(vocabulary), stride = n + 3;
      std::vector<std::vector<float>> rows;
      for (int i = 0; i < 3; ++i) rows.push_back(values(n, random));
      rows.push_back(std::vector<float>(n, -3.0f));
      for (float& f : rows[1]) f = std::round(f * 2);  // many ties
      for (float& f : rows[2]) f = random.below(2) ? 0.0f : -0.0f;
      rows.push_back(std::vector<float>(n, -std::numeric_limits<float>::max()));
      std::vector<int32_t> want;
      for (const auto& row : rows) want.push_back(flexgen::argmax(row));
      for (float bad : {kInf, -kInf, std::nanf("")}) {
        rows.push_back(values(n, random));
        const size_t at = static_cast<size_t>(random.below(vocabulary)), also = static_cast<size_t>(random.below(vocabulary));
        rows.back()[at] = bad, rows.back()[also] = -bad;
        want.push_back(~static_cast<int32_t>(std::min(at, also)));
      }
      std::vector<float> logits(rows.size() * stride, kInf);
      for (size_t r = 0; r < rows.size(); ++r) std::copy(rows[r].begin(), rows[r].end(), logits.begin() + static_cast<ptrdiff_t>(r * stride));
      std::vector<int32_t> ids(rows.size(), 99999);
      const cuda::ArgmaxArguments a{place.input(logits, "logits"), static_cast<int64_t>(stride), place.output(ids, "ids"),
                                    static_cast<int32_t>(rows.size()), vocabulary};
      REQUIRE(place.run([&](void* stream) { return cuda::argmax(a, stream); }) == 0);
      CHECK(ids == want);
    });
}
