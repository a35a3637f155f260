// SPDX-License-Identifier: Apache-2.0
// exp against the C library's in long double, selections against sorts, log-probabilities against their definition.
#include "flexgen/engine/softmax.h"

#include <numeric>
#include <random>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("exp is within 1.5 ulp for arguments down to where the result is subnormal") {
  std::mt19937_64 random(1);
  double worst = 0;
  for (int i = 0; i < 200000; ++i) {
    const double x = -std::ldexp(std::uniform_real_distribution<>(0, 1)(random), i % 2 ? 9 : 0) * (i % 3 ? 1.0 : 1e-3);
    const long double want = std::exp(static_cast<long double>(x));
    const double ulp = std::nextafter(static_cast<double>(want), 2.0) - static_cast<double>(want);
    worst = std::max(worst, static_cast<double>(std::abs(exp_nonpositive(x) - want) / ulp));
  }
  CHECK(worst < 1.5);
  CHECK(exp_nonpositive(0.0) == 1.0);
  CHECK(exp_nonpositive(-0.0) == 1.0);
  CHECK(exp_nonpositive(-707.9) > 0);
  CHECK(exp_nonpositive(-709.0) == 0.0);
  CHECK(exp_nonpositive(-std::numeric_limits<double>::infinity()) == 0.0);
}

TEST_CASE("the k-th largest equals that of a sort") {
  std::mt19937 random(2);
  std::vector<float> buffer;
  for (const size_t n : {1, 2, 50, 1000, 5000}) {
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(static_cast<int>(random() % 400)) - 200;  // many ties
    if (n > 10) v[3] = v[7] = -std::numeric_limits<float>::infinity();
    std::vector<float> sorted = v;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (const size_t k : {size_t{1}, size_t{2}, n / 2, n - 1, n})
      if (k >= 1 && k <= n) CHECK(kth_largest(v, k, buffer) == sorted[k - 1]);
    std::sort(v.begin(), v.end());  // ascending: every value passes the floor
    for (const size_t k : {size_t{1}, n / 3, n})
      if (k >= 1 && k <= n) CHECK(kth_largest(v, k, buffer) == sorted[k - 1]);
  }
}

TEST_CASE("of equal largest values the lowest id is the argmax, at every place of a vector") {
  for (size_t n = 1; n < 70; ++n)
    for (size_t at = 0; at < n; ++at) {
      std::vector<float> v(n, -3.0f);
      v[at] = 2.0f;
      v[n - 1] = 2.0f;
      REQUIRE(argmax(v) == static_cast<int32_t>(at));
    }
}

TEST_CASE("one value that is not finite is seen wherever it stands") {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::quiet_NaN()})
    for (size_t at = 0; at < 37; ++at) {
      std::vector<float> v(37, std::numeric_limits<float>::max());
      v[36] = -v[36];
      REQUIRE(all_finite(v));
      v[at] = bad;
      REQUIRE_FALSE(all_finite(v));
    }
}

TEST_CASE("log-probabilities sum to one, and the likeliest come first, the lower id before its equal") {
  std::mt19937 random(3);
  std::vector<float> logits(1003);
  for (float& x : logits) x = static_cast<float>(static_cast<int>(random() % 2000) - 1000) / 64;
  logits[500] = logits[20] = logits[21] = 40;
  const LogSoftmax lp(logits);
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) sum += std::exp(lp[i]);
  CHECK(std::abs(sum - 1) < 1e-12);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  for (const size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{17}, size_t{1003}, size_t{2000}}) {
    const auto top = lp.top(n);
    REQUIRE(top.size() == std::min(n, logits.size()));
    for (size_t i = 0; i < top.size(); ++i) {
      REQUIRE(top[i].first == order[i]);
      REQUIRE(top[i].second == lp[static_cast<size_t>(order[i])]);
    }
  }
}
