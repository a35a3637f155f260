// SPDX-License-Identifier: Apache-2.0
// attention on every backend: reference, the contract's bits, and the same bits however a sequence is cut into spans and batches.
#include "kernels/registry.h"

#include <limits>

#include "support/catch.h"
#include "support/compare.h"
#include "support/contract.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// One sequence of n positions with its K, V rounded to the cache's format
struct Sequence {
  KvLayout layout;
  int64_t n, n_heads;
  GuardedMatrix q, k, v;
  PagedCache cache;

  Sequence(DType dtype, int64_t positions, int64_t heads, int64_t kv_heads, int64_t d, int64_t page, Random& random)
      : layout{dtype, kv_heads, d, page}, n(positions), n_heads(heads), q(GuardedMatrix::input(n, heads * d, random)),
        k(GuardedMatrix::input(n, kv_heads * d, random)), v(GuardedMatrix::input(n, kv_heads * d, random)), cache(layout, positions) {
    ThreadPool pool(1);
    const KvSpan whole[] = {cache.span(0, n, 0)};
    kv_append(*backends().back(), {k.view(), v.view(), layout, whole}, {&pool});
    std::byte rounded[4];
    for (GuardedMatrix* m : {&k, &v})
      for (int64_t i = 0; i < n; ++i)
        for (int64_t e = 0; e < kv_heads * d; ++e) {
          float& f = m->view().row(i)[e];
          store_element(dtype, rounded, 0, f), f = load_element(dtype, rounded, 0);
        }
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(layout.head_dim)); }

  // outputs of tokens [first, first + n_tok) as one span
  std::vector<float> run(const Backend& b, ThreadPool& pool, int64_t first, int64_t n_tok) {
    GuardedMatrix y = GuardedMatrix::output(n_tok, n_heads * layout.head_dim);
    const KvSpan spans[] = {cache.span(0, n_tok, first)};
    attention(b, {q.view().rows_from(first, n_tok), y.view(), n_heads, scale(), layout, spans}, {&pool});
    CHECK(y.intact());
    return y.values();
  }

  std::vector<float> contract(int64_t first, int64_t n_tok) {
    const int64_t d = layout.head_dim;
    std::vector<float> out;
    const auto exp = [](float x) { return math::exp(math::Lane{x}).v; };
    for (int64_t i = first; i < first + n_tok; ++i)
      for (int64_t h = 0; h < n_heads; ++h) {
        const int64_t at = h / (n_heads / layout.n_heads) * d;
        const float* query = q.view().row(i) + h * d;
        float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
        std::vector<float> o(static_cast<size_t>(d), 0.0f);
        for (int64_t start = 0; start <= i; start += kAttentionBlock) {
          const int64_t seen = std::min(kAttentionBlock, i + 1 - start);
          std::vector<float> score;
          float m = -std::numeric_limits<float>::infinity();
          for (int64_t j = 0; j < seen; ++j) {
            const float* key = k.view().row(start + j) + at;
            score.push_back(contract_dot(d, [&](int64_t e) { return query[e] * scale(); }, [&](int64_t e) { return key[e]; }));
            m = std::max(m, score.back());
          }
          std::array<float, 16> sums{};
          for (int64_t j = 0; j < seen; ++j) {
            float& p = score[static_cast<size_t>(j)];
            p = exp(p - m);
            sums[static_cast<size_t>(j % 16)] += p;
          }
          const float larger = std::max(maximum, m), a = exp(maximum - larger), b = exp(m - larger);
          maximum = larger;
          sum = std::fma(lanes_sum(sums), b, sum * a);
          for (int64_t e = 0; e < d; ++e) {
            float block = 0;
            for (int64_t j = 0; j < seen; ++j) block = std::fma(score[static_cast<size_t>(j)], v.view().row(start + j)[at + e], block);
            o[static_cast<size_t>(e)] = std::fma(block, b, o[static_cast<size_t>(e)] * a);
          }
        }
        for (float f : o) out.push_back(f / sum);
      }
    return out;
  }

  // Error of a score: dot rounding. It moves every p by that factor; the rest is the sums over positions.
  // |error of y| <= 2 (score error + (positions/16 + 20) 2^-24) max|v|, from the derivative of softmax-weighted means
  // One for each (token, head) of [first, first + n_tok).
  std::vector<Tolerance> tolerances(int64_t first, int64_t n_tok) {
    const int64_t d = layout.head_dim;
    std::vector<Tolerance> out;
    for (int64_t i = first; i < first + n_tok; ++i)
      for (int64_t h = 0; h < n_heads; ++h) {
        const int64_t at = h / (n_heads / layout.n_heads) * d;
        double score_error = 0, largest = 0;
        for (int64_t j = 0; j <= i; ++j) {
          double size = 0;
          for (int64_t e = 0; e < d; ++e) {
            size += std::abs(static_cast<double>(q.view().row(i)[h * d + e]) * static_cast<double>(k.view().row(j)[at + e]));
            largest = std::max(largest, std::abs(static_cast<double>(v.view().row(j)[at + e])));
          }
          score_error = std::max(score_error, size * static_cast<double>(scale()) * (static_cast<double>(d) / 16 + 8) * 0x1p-24);
        }
        out.push_back({2 * (score_error + (static_cast<double>(i) / 16 + 20) * 0x1p-24) * largest, 0});
      }
    return out;
  }
};

}  // namespace

TEST_CASE("attention agrees with the reference and with the contract's bits on every backend", "[ops]") {
  Random random(21);
  ThreadPool pool(3);
  struct Shape { int64_t heads, kv_heads, d, page; };
  const Shape shapes[] = {{2, 2, 64, 32},  {3, 3, 80, 64}, {2, 1, 32, 32},  {4, 2, 128, 96},
                          {1, 1, 256, 32}, {2, 2, 5, 32},  {3, 1, 100, 64}, {40, 2, 16, 32},
                          {2, 2, 128, 16}, {3, 3, 80, 16}, {2, 1, 5, 16},   {6, 2, 64, 16}};
  for (DType dtype : {DType::f32, DType::f16})
    for (const Shape& s : shapes) {
      const int64_t n = random.between(40, 110);
      Sequence sequence(dtype, n, s.heads, s.kv_heads, s.d, s.page, random);
      const int64_t firsts[] = {0, n - 1, random.between(1, n - 2), 32, 31};
      for (int64_t first : firsts) {
        const int64_t n_tok = first == 0 ? n : first == n - 1 ? 1 : random.between(1, n - first);
        CAPTURE(name(dtype), s.heads, s.kv_heads, s.d, n, first, n_tok);
        const std::vector<float> contract = sequence.contract(first, n_tok), ref = sequence.run(*backends().back(), pool, first, n_tok);
        const std::vector<Tolerance> tolerances = sequence.tolerances(first, n_tok);
        CHECK(difference(contract, ref, [&](size_t i) { return tolerances[i / static_cast<size_t>(s.d)]; }) == "");
        for (const Backend* b : backends()) {
          CAPTURE(std::string(b->name));
          if (b->name != "ref") CHECK(bit_difference(sequence.run(*b, pool, first, n_tok), contract) == "");
        }
      }
    }
}

TEST_CASE("attention of ragged spans in one batch equals each sequence alone, cut anywhere", "[ops]") {
  Random random(22);
  ThreadPool pool(2), one(1);
  for (const auto& [dtype, page] : {std::pair(DType::f32, 32), {DType::f16, 32}, {DType::f32, 16}, {DType::f16, 16}}) {
    const KvLayout layout{dtype, 2, 80, page};
    std::vector<Sequence> sequences;
    for (int64_t n : {1, 33, 70, 5, 49}) sequences.emplace_back(dtype, n, 4, 2, 80, page, random);
    for (const Backend* b : backends()) {
      if (b->name == "ref") continue;
      CAPTURE(name(dtype), page, std::string(b->name));
      // the tail of each sequence, from a random position on, as spans of one batch
      std::vector<KvSpan> spans;
      std::vector<float> want;
      int64_t rows = 0;
      std::vector<int64_t> firsts;
      for (Sequence& s : sequences) {
        const int64_t first = random.below(s.n);
        firsts.push_back(first);
        spans.push_back(s.cache.span(rows, s.n - first, first));
        rows += s.n - first;
        const std::vector<float> alone = s.run(*b, one, 0, s.n);
        want.insert(want.end(), alone.begin() + first * 4 * 80, alone.end());
      }
      GuardedMatrix q = GuardedMatrix::output(rows, 4 * 80), y = GuardedMatrix::output(rows, 4 * 80);
      for (size_t i = 0; i < spans.size(); ++i)
        for (int64_t t = 0; t < spans[i].n_tok; ++t)
          for (int64_t e = 0; e < 4 * 80; ++e) q.view().row(spans[i].first_row + t)[e] = sequences[i].q.view().row(firsts[i] + t)[e];
      attention(*b, {q.view(), y.view(), 4, sequences[0].scale(), layout, spans}, {&pool});
      CHECK(y.intact());
      CHECK(bit_difference(y.values(), want) == "");
    }
  }
}

TEST_CASE("attention survives scores of any size, and NaN stays in its own row", "[ops]") {
  Random random(23);
  ThreadPool pool(1);
  Sequence s(DType::f32, 50, 2, 2, 16, 32, random);
  for (int64_t e = 0; e < 16; ++e) {
    s.q.view().row(40)[e] = 1e18f;  // one position takes all
    s.q.view().row(41)[16 + e] = std::nanf("");
    s.q.view().row(42)[e] = INFINITY;
  }
  const std::vector<float> contract = s.contract(0, 50);
  for (const Backend* b : backends())
    if (b->name != "ref") CHECK(bit_difference(s.run(*b, pool, 0, 50), contract) == "");
  for (size_t i = 0; i < contract.size(); ++i) {
    const size_t row = i / 32, head = i / 16 % 2;
    const bool broken = (row == 41 && head == 1) || (row == 42 && head == 0);
    CHECK(std::isnan(contract[i]) == broken);
  }
}
