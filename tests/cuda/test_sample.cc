// SPDX-License-Identifier: Apache-2.0
// A token drawn on the card is the one that the CPU's sampler draws, whatever the settings and however many logits are equal.
#include "kernels/cuda/api/sample.h"

#include <cfloat>
#include <cmath>

#include "cuda/place.h"
#include "flexgen/engine/device_sampling.h"
#include "flexgen/engine/sampler.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

struct DrawCase {
  std::vector<float> logits;
  GenerationSettings settings;
  uint64_t request;
  uint32_t number;  // of the sample
  size_t n_new;

  std::optional<Draw> draw() const { return device_draw(settings, request, number, n_new); }
  int32_t on_cpu() const {
    SamplerScratch scratch;
    const std::vector<int32_t> context(1 + n_new, 0);
    return Sampler(settings, request, number).next(logits, context, 1, scratch).id;
  }
  // tokens from the top_k-th on: more than the card takes where many are equal
  size_t candidates() const {
    const auto k = static_cast<size_t>(settings.top_k);
    if (k >= logits.size()) return logits.size();
    std::vector<float> scores;
    for (const float l : logits) scores.push_back(settings.temperature == 1.0 ? l : l / static_cast<float>(settings.temperature));
    std::vector<float> sorted = scores;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    return static_cast<size_t>(std::count_if(scores.begin(), scores.end(), [&](float s) { return s >= sorted[k - 1]; }));
  }
};

enum class Logits { spread, peaked, equal_in_groups, zeros, extreme };

std::vector<float> logits_of(Logits kind, size_t n, Random& random) {
  std::vector<float> v(n);
  for (float& f : v) {
    const double u = static_cast<double>(random.next() >> 11) * 0x1p-53;
    switch (kind) {
      case Logits::spread: f = static_cast<float>(10 * u); break;
      case Logits::peaked: f = static_cast<float>(-std::log(u + 1e-9) * 4); break;
      case Logits::equal_in_groups: f = static_cast<float>(std::floor(u * 40) - 20); break;
      case Logits::zeros: f = random.below(3) == 0 ? 0.0f : random.below(2) == 0 ? -0.0f : -1.0f; break;
      case Logits::extreme: f = random.below(8) == 0 ? FLT_MAX : random.below(8) == 0 ? -FLT_MAX : static_cast<float>(u); break;
    }
  }
  return v;
}

}  // namespace

TEST_CASE("CUDA sample draws the token that the CPU draws", "[cuda]") {
  Random random(91);
  const double temperatures[] = {1, 0.7, 1.5, 0.01, 100}, top_ps[] = {1, 0.9, 0.3, 0}, min_ps[] = {0, 0.05, 1};
  const int64_t top_ks[] = {1, 2, 5, 50, 300, 512};
  size_t drawn = 0, not_drawn = 0;
  for (const size_t vocabulary : {1, 7, 511, 512, 513, 1700, 3000})
    each_way([&](Place& place) {
      std::vector<DrawCase> cases;
      for (int i = 0; i < 15; ++i) {
        DrawCase c;
        c.logits = logits_of(static_cast<Logits>(i % 5), vocabulary, random);
        c.settings.do_sample = true;
        c.settings.temperature = temperatures[random.below(5)], c.settings.top_k = top_ks[random.below(6)];
        c.settings.top_p = top_ps[random.below(4)], c.settings.min_p = min_ps[random.below(3)];
        c.settings.seed = random.next();
        c.request = random.next(), c.number = static_cast<uint32_t>(random.below(3)), c.n_new = static_cast<size_t>(random.below(100));
        cases.push_back(c);
      }
      const size_t stride = vocabulary + 3;
      std::vector<float> logits(cases.size() * stride, INFINITY);
      std::vector<Draw> draws;
      std::vector<int32_t> want, ids(cases.size(), 99999);
      for (size_t i = 0; i < cases.size(); ++i) {
        std::copy(cases[i].logits.begin(), cases[i].logits.end(), logits.begin() + static_cast<ptrdiff_t>(i * stride));
        draws.push_back(cases[i].draw().value());
        const bool fits = cases[i].candidates() <= kMostDrawn;
        want.push_back(fits ? cases[i].on_cpu() : kNotDrawn);
        ++(fits ? drawn : not_drawn);
      }
      cuda::SampleArguments a{place.input(logits, "logits"), static_cast<int64_t>(stride), place.input(draws, "draws"), place.output(ids, "ids"),
                              static_cast<int32_t>(cases.size()), static_cast<int32_t>(vocabulary)};
      REQUIRE(place.run([&](void* stream) { return cuda::sample(a, stream); }) == 0);
      for (size_t i = 0; i < cases.size(); ++i) {
        const GenerationSettings& s = cases[i].settings;
        CAPTURE(vocabulary, i, s.temperature, s.top_k, s.top_p, s.min_p);
        CHECK(ids[i] == want[i]);
      }
    });
  CHECK(drawn > 60);
  CHECK(not_drawn > 3);
}

TEST_CASE("CUDA sample follows the random number over all tokens that may be drawn", "[cuda]") {
  // weights 4, 2, 1, 1 of 8, by id; the one in front is not among the top 4
  const float ln2 = 0.693147180559945f;
  const std::vector<float> logits{-9, 2 * ln2, ln2, 0, 0};
  const std::vector<double> uniforms{0, 0.4999, 0.5001, 0.7499, 0.7501, 0.8749, 0.8751, 1 - 0x1p-53};
  const std::vector<int32_t> want{1, 1, 2, 2, 3, 3, 4, 4};
  each_way([&](Place& place) {
    std::vector<Draw> draws;
    std::vector<float> rows;
    for (const double u : uniforms) draws.push_back({u, 1, 0, 1, 3}), rows.insert(rows.end(), logits.begin(), logits.end());
    std::vector<int32_t> ids(draws.size());
    cuda::SampleArguments a{place.input(rows, "logits"), 5, place.input(draws, "draws"), place.output(ids, "ids"), 8, 5};
    REQUIRE(place.run([&](void* stream) { return cuda::sample(a, stream); }) == 0);
    CHECK(ids == want);
  });
}

TEST_CASE("CUDA sample names a logit that is not finite", "[cuda]") {
  each_way([&](Place& place) {
    std::vector<float> logits(2 * 700, 1.0f);
    logits[600] = NAN, logits[650] = INFINITY, logits[700 + 3] = -INFINITY;
    const std::vector<Draw> draws(2, Draw{0.5, 1, 0, 1, 5});
    std::vector<int32_t> ids(2);
    cuda::SampleArguments a{place.input(logits, "logits"), 700, place.input(draws, "draws"), place.output(ids, "ids"), 2, 700};
    REQUIRE(place.run([&](void* stream) { return cuda::sample(a, stream); }) == 0);
    CHECK(ids == std::vector<int32_t>{~600, ~3});
  });
}
