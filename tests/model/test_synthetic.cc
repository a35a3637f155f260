// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/synthetic.h"

#include <vector>

#include "flexgen/model/named_shapes.h"
#include "support/catch.h"

using namespace flexgen;

namespace {

std::vector<float> values(const SyntheticWeights& w, const char* tensor, uint64_t first, size_t n) {
  std::vector<float> out(n);
  w.fill(tensor, first, std::as_writable_bytes(std::span(out)));
  return out;
}

struct Moments {
  double mean = 0, deviation = 0;
};

Moments moments(const std::vector<float>& v) {
  Moments m;
  for (const float x : v) m.mean += x / static_cast<double>(v.size());
  for (const float x : v) m.deviation += (x - m.mean) * (x - m.mean) / static_cast<double>(v.size());
  m.deviation = std::sqrt(m.deviation);
  return m;
}

}  // namespace

TEST_CASE("synthetic weights have the scale that keeps activations near one", "[model]") {
  const ModelDescription m = *try_named_shape("opt-6.7b");
  const SyntheticWeights w(m, DType::f32, 3);
  const auto check = [&](const char* tensor, double mean, double deviation) {
    INFO(tensor);
    const Moments found = moments(values(w, tensor, 12'345, 500'000));
    CHECK(found.mean == Approx(mean).margin(0.02 * deviation));
    CHECK(found.deviation == Approx(deviation).epsilon(0.02));
  };
  check("layers.0.attn.qkv.weight", 0, 1 / 64.0);          // 1 / sqrt(4096)
  check("layers.7.attn.out.weight", 0, 1 / 64.0 / 8);      // and 1 / sqrt(2 * 32)
  check("layers.7.mlp.fc2.weight", 0, 1 / 128.0 / 8);
  check("layers.7.mlp.norm.weight", 1, 0.02);
  check("layers.7.mlp.fc1.bias", 0, 0.02);
  check("embed.tokens", 0, 1 / 64.0);
}

TEST_CASE("a synthetic value depends on seed, tensor and place alone", "[model]") {
  const ModelDescription m = *try_named_shape("opt-125m");
  const SyntheticWeights w(m, DType::f32, 3), other(m, DType::f32, 4);
  const auto whole = values(w, "layers.0.mlp.fc1.weight", 0, 20'000);
  for (const uint64_t first : {1, 4095, 4096, 9999}) {
    const auto part = values(w, "layers.0.mlp.fc1.weight", first, 9'000);
    CHECK(std::equal(part.begin(), part.end(), whole.begin() + static_cast<ptrdiff_t>(first)));
  }
  CHECK(values(w, "layers.1.mlp.fc1.weight", 0, 20'000) != whole);
  CHECK(values(other, "layers.0.mlp.fc1.weight", 0, 20'000) != whole);
  CHECK(values(SyntheticWeights(m, DType::f32, 3), "layers.0.mlp.fc1.weight", 0, 20'000) == whole);
}
