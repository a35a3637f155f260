// SPDX-License-Identifier: Apache-2.0
// layer_norm, embed and kv_append on every backend: reference, contract bits, guard bands, aliasing.
#include "kernels/registry.h"

#include "support/catch.h"
#include "support/compare.h"
#include "support/contract.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

std::vector<float> contract_layer_norm(const float* x, int64_t n, const float* gamma, const float* beta, float eps) {
  std::array<float, 16> sums{}, squares{};
  for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(i % 16)] += x[i];
  const float mean = lanes_sum(sums) / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    float& s = squares[static_cast<size_t>(i % 16)];
    s = std::fma(x[i] - mean, x[i] - mean, s);
  }
  const float scale = 1.0f / std::sqrt(lanes_sum(squares) / static_cast<float>(n) + eps);
  std::vector<float> y;
  for (int64_t i = 0; i < n; ++i) y.push_back(std::fma((x[i] - mean) * scale, gamma ? gamma[i] : 1.0f, beta ? beta[i] : 0.0f));
  return y;
}

}  // namespace

TEST_CASE("layer_norm agrees with the reference and the contract's bits on every backend", "[ops]") {
  Random random(11);
  ThreadPool pool(2);
  for (int64_t e : {1, 3, 15, 16, 17, 63, 64, 65, 768, 1027})
    for (int affine = 0; affine < 4; ++affine) {
      const int64_t t = random.between(1, 9);
      GuardedMatrix x = GuardedMatrix::input(t, e, random);
      for (int64_t i = 0; i < e; ++i) x.view().row(0)[i] += 1000;  // variance from one pass would cancel
      std::vector<float> gamma, beta;
      for (int64_t i = 0; i < e; ++i) gamma.push_back(random.value()), beta.push_back(random.value());
      const float* g = affine & 1 ? gamma.data() : nullptr;
      const float* b = affine & 2 ? beta.data() : nullptr;
      std::vector<float> ref;
      for (auto it = backends().rbegin(); it != backends().rend(); ++it) {
        CAPTURE(std::string((*it)->name), e, t, affine);
        GuardedMatrix y = GuardedMatrix::output(t, e);
        layer_norm(**it, {x.view(), g, b, y.view(), 1e-5f}, {&pool});
        CHECK(y.intact());
        if ((*it)->name == "ref") {
          ref = y.values();
          continue;
        }
        std::vector<float> contract;
        for (int64_t i = 0; i < t; ++i) {
          const std::vector<float> row = contract_layer_norm(x.view().row(i), e, g, b, 1e-5f);
          contract.insert(contract.end(), row.begin(), row.end());
        }
        CHECK(bit_difference(y.values(), contract) == "");
        // the mean is off by at most (E/16 + 5) 2^-24 of the mean of |x|; that error is scaled like x itself
        CHECK(difference(y.values(), ref, [&](size_t i) {
                const float* row = x.view().row(static_cast<int64_t>(i) / e);
                double mean = 0, size = 0, variance = 0;
                for (int64_t k = 0; k < e; ++k)
                  mean += static_cast<double>(row[k]) / static_cast<double>(e),
                      size += std::abs(static_cast<double>(row[k])) / static_cast<double>(e);
                for (int64_t k = 0; k < e; ++k) variance += std::pow(static_cast<double>(row[k]) - mean, 2) / static_cast<double>(e);
                const double unit = (static_cast<double>(e) / 16 + 8) * 0x1p-24;
                const double gain = (g ? std::abs(static_cast<double>(g[static_cast<int64_t>(i) % e])) : 1.0) / std::sqrt(variance + 1e-5);
                const double offset = b ? std::abs(static_cast<double>(b[static_cast<int64_t>(i) % e])) : 0.0;
                const double d = std::abs(static_cast<double>(row[static_cast<int64_t>(i) % e]) - mean);
                // error of the mean moves x - mean, and (squared) the variance
                const double shift = unit * size;
                return Tolerance{gain * (shift * (1 + d * (shift + 2 * unit * std::sqrt(variance)) / (variance + 1e-5)) + d * 2 * unit) +
                                     offset * 0x1p-24 + 0x1p-149,
                                 0x1p-22};
              }) == "");
        // in place gives the same
        GuardedMatrix same = GuardedMatrix::output(t, e);
        for (int64_t i = 0; i < t; ++i)
          for (int64_t k = 0; k < e; ++k) same.view().row(i)[k] = x.view().row(i)[k];
        layer_norm(**it, {same.view(), g, b, same.view(), 1e-5f}, {&pool});
        CHECK(bit_difference(same.values(), contract) == "");
      }
    }
}

TEST_CASE("embed copies rows exactly, from any row block, and adds when asked", "[ops]") {
  Random random(12);
  ThreadPool pool(2);
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t w : {1, 16, 37, 512}) {
      BlockedWeight table(dtype, 100, w, random);
      const std::vector<int32_t> ids{99, 0, 17, 17, 42, 3};
      const WeightView view = table.cut({10, 8, -20, 30, -31, 1});
      for (const Backend* b : backends()) {
        CAPTURE(name(dtype), w, std::string(b->name));
        GuardedMatrix y = GuardedMatrix::output(6, w);
        embed(*b, {ids, view, y.view(), false}, {&pool});
        std::vector<float> want;
        for (int32_t id : ids)
          for (int64_t i = 0; i < w; ++i) want.push_back(table.at(id, i));
        CHECK(bit_difference(y.values(), want) == "");
        embed(*b, {ids, view, y.view(), true}, {&pool});
        for (float& f : want) f += f;
        CHECK(bit_difference(y.values(), want) == "");
        CHECK(y.intact());
      }
    }
}

TEST_CASE("kv_append rounds to the cache's format and writes the span's positions only", "[ops]") {
  Random random(13);
  ThreadPool pool(2);
  for (DType dtype : {DType::f32, DType::f16})
    for (int64_t d : {1, 16, 64, 80, 100}) {
      const KvLayout layout{dtype, 3, d, 32};
      GuardedMatrix k = GuardedMatrix::input(50, 3 * d, random), v = GuardedMatrix::input(50, 3 * d, random);
      k.view().row(4)[0] = 70000.0f;  // infinity in f16
      k.view().row(5)[0] = -INFINITY;
      v.view().row(7)[d - 1] = 0x1p-24f * 1.5f;  // a tie between f16 subnormals
      PagedCache first_ref(layout, 96), second_ref(layout, 96);
      const auto append = [&](const Backend& b, const PagedCache& first, const PagedCache& second) {
        const KvSpan spans[] = {first.span(2, 40, 30), second.span(45, 5, 0)};
        kv_append(b, {k.view(), v.view(), layout, spans}, {&pool});
      };
      append(*backends().back(), first_ref, second_ref);
      CHECK_FALSE(first_ref == PagedCache(layout, 96));
      for (const Backend* b : backends()) {
        CAPTURE(name(dtype), d, std::string(b->name));
        PagedCache first(layout, 96), second(layout, 96);
        append(*b, first, second);
        CHECK(first == first_ref);
        CHECK(second == second_ref);
      }
    }
}
