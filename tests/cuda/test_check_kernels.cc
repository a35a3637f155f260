// SPDX-License-Identifier: Apache-2.0
// The kernels that gpu_check measures a card's memory with, and its references for large shapes, against the CPU.
#include "bench/gpu/check_kernels.h"

#include "cuda/attention_case.h"
#include "cuda/linear_problem.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

struct alignas(16) Words {
  uint32_t at[4];
  bool operator==(const Words&) const = default;
};

}  // namespace

TEST_CASE("a card's memory is read, copied and written to the last byte", "[cuda]") {
  Random random(91);
  for (const Way& way : ways())
    for (size_t n : {1u, 255u, 2049u, 9000u}) {
      CAPTURE(way.name, n);
      std::vector<Words> from(n), copied(n), written(n);
      uint32_t sum = 0;
      for (Words& w : from)
        for (uint32_t& word : w.at) sum += word = static_cast<uint32_t>(random.next());
      constexpr int kMultiprocessors = 2;
      std::vector<uint32_t> sums(bench::memory_blocks(kMultiprocessors), 7);
      const std::unique_ptr<Place> place = open(way);
      const Words* const from_there = place->input(from);
      Words *const copied_there = place->output(copied), *const written_there = place->output(written);
      uint32_t* const sums_there = place->output(sums);
      REQUIRE(place->run([&](void* stream) {
        int error = bench::read_memory(from_there, n * 16, kMultiprocessors, sums_there, stream);
        if (!error) error = bench::copy_memory(copied_there, from_there, n * 16, kMultiprocessors, stream);
        return error ? error : bench::write_memory(written_there, n * 16, kMultiprocessors, 0xABCD, stream);
      }) == 0);
      for (uint32_t s : sums) sum -= s;
      CHECK(sum == 0);
      CHECK(copied == from);
      CHECK(written == std::vector<Words>(n, {0xABCD, 0xABCD, 0xABCD, 0xABCD}));
    }
}

TEST_CASE("random operands are the same on every device, and never zero", "[cuda]") {
  std::vector<float> values(3000, 5.0f);
  const std::unique_ptr<Place> place = open(ways().front());
  float* const there = place->output(values);
  REQUIRE(place->run([&](void* stream) { return bench::fill_random(DType::f32, there, 3000, 2, 17, stream); }) == 0);
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    CHECK(values[i] == 2 * bench::random_value(17, i));
    CHECK((values[i] != 0 && std::abs(values[i]) < 2));
    sum += static_cast<double>(values[i]);
  }
  CHECK(std::abs(sum / 3000) < 0.1);
  CHECK(bench::random_value(18, 0) != bench::random_value(17, 0));
}

TEST_CASE("the reference product agrees with a double, with all tokens and with some", "[cuda]") {
  for (DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (int32_t step : {1, 7}) {
      LinearProblem p(dtype, 37, 35, 83, Normals{std::mt19937(92), {}});
      p.with_bias = false;
      const bool rounded = dtype != DType::f32;
      const LinearProblem::Reference want = p.reference(rounded);
      const auto tokens = static_cast<size_t>((37 + step - 1) / step);
      std::vector<float> y(tokens * 35, std::nanf("")), magnitude(y);
      std::vector<float> x;
      for (int64_t t = 0; t < 37; ++t) x.insert(x.end(), p.x().row(t), p.x().row(t) + 83);
      std::vector<std::byte> w(35 * 83 * size_of(dtype));
      for (int64_t n = 0; n < 35; ++n)
        for (int64_t k = 0; k < 83; ++k) store_element(dtype, w.data(), static_cast<size_t>(n * 83 + k), p.weights().at(n, k));
      const std::unique_ptr<Place> place = open(ways().front());
      const bench::ReferenceProduct a{place->input(x), place->input(w), dtype, place->output(y), place->output(magnitude), 83, 37, 35, 83, step,
                                      rounded};
      REQUIRE(place->run([&](void* stream) { return bench::reference_product(a, stream); }) == 0);
      for (size_t i = 0; i < y.size(); ++i) {
        const size_t at = i / 35 * static_cast<size_t>(step) * 35 + i % 35;
        CHECK(static_cast<double>(magnitude[i]) == Approx(want.magnitude[at]));
        CHECK(std::abs(static_cast<double>(y[i]) - static_cast<double>(want.y[at])) <= 83 * 0x1p-24 * want.magnitude[at]);
      }
    }
}

TEST_CASE("the reference attention agrees with a double, with all tokens and with some", "[cuda]") {
  for (DType dtype : {DType::f16, DType::f32})
    for (int32_t step : {1, 3}) {
      AttentionCase c(dtype, 4, 2, 80, 32, {{300, 5}, {5, 5}});
      Normal normal(93);
      c.fill([&] { return normal(); });
      const std::vector<float> want = c.reference();
      std::vector<float> y(static_cast<size_t>((10 + step - 1) / step * c.width()), std::nanf("")), expected;
      for (int64_t t = 0; t < 10; t += step) expected.insert(expected.end(), want.begin() + t * c.width(), want.begin() + (t + 1) * c.width());
      const std::unique_ptr<Place> place = open(ways().front());
      const cuda::AttentionArguments there = c.arguments(*place);
      const bench::ReferenceAttention a{there.q, place->output(y, "reference"), there.layout, 4, c.scale(), there.spans, 2, 5, step};
      REQUIRE(place->run([&](void* stream) { return bench::reference_attention(a, stream); }) == 0);
      CHECK(relative_l2(y, expected) <= 1e-6);
    }
}

TEST_CASE("the comparison on a card refuses what that of the tests refuses", "[cuda]") {
  const float nan = std::nanf(""), inf = INFINITY;
  struct Pair { float got, want; uint64_t wrong; };
  const Pair pairs[] = {{1, 1, 0},   {1, 1.0000001f, 0}, {nan, 1, 1}, {1, nan, 1}, {nan, nan, 1}, {inf, 1, 1},
                        {-5, -500, 1}, {5, -5, 1},       {0, 0, 0},   {1.5f, 1, 1}};
  for (const Pair& pair : pairs) {
    std::vector<float> got(700, 2.0f), want(600, 2.0f), magnitude(600, 1.0f);  // rows of 6 and 7
    got[7 * 55 + 3] = pair.got, want[6 * 55 + 3] = pair.want;
    for (size_t r = 0; r < 100; ++r) got[7 * r + 6] = nan;  // between the rows
    std::vector<bench::Difference> parts(bench::kCompareBlocks);
    const std::unique_ptr<Place> place = open(ways().front());
    const bench::Comparison a{place->input(got), place->input(want), place->input(magnitude), 7, 100, 6, 1e-6f, 1e-6f};
    bench::Difference* const there = place->output(parts);
    REQUIRE(place->run([&](void* stream) { return bench::compare(a, there, stream); }) == 0);
    bench::Difference sum{};
    for (const bench::Difference& d : parts) sum.error += d.error, sum.size += d.size, sum.wrong += d.wrong;
    CAPTURE(pair.got, pair.want);
    CHECK(sum.wrong == pair.wrong);
    if (std::isfinite(pair.got) && std::isfinite(pair.want)) {
      const double e = static_cast<double>(pair.got) - static_cast<double>(pair.want);
      CHECK(sum.error == Approx(e * e));
      CHECK(sum.size == Approx(599 * 4.0 + static_cast<double>(pair.want) * static_cast<double>(pair.want)));
    } else {
      CHECK_FALSE(std::isfinite(sum.error));
    }
  }
}
