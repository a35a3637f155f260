// SPDX-License-Identifier: Apache-2.0
// Seeded random weights of any size at the speed of memory: nearly normal values from a counter are made once for each scale, and every
// tensor is put together from runs of them, each run's place drawn from seed, tensor name and position. So a value depends on
// nothing but these and its scale, layers differ, and any part of a tensor can be had alone. Scales keep activations near 1: 1 / sqrt(fan-in), and
// for what is added to the residual stream 1 / sqrt(2 L) less, as OPT initialises (metaseq, init of output layers).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <string_view>
#include <tuple>

#include "flexgen/base/xxhash.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/model/description.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

class SyntheticWeights {
 public:
  // Makes the pools of this model's scales in this number format.
  SyntheticWeights(const ModelDescription& m, DType dtype, uint64_t seed) : model_(m), dtype_(dtype), seed_(seed) {
    for (const char* name : {"x.norm.weight", "x.norm.bias", "embed.tokens", "embed.project_in", "x.qkv.weight", "x.out.weight", "x.fc2.weight",
                             "head.project_out", "head.logits", "embed.positions"}) {
      const Style style = style_of(name);
      Buffer& pool = pools_[style];
      if (pool.size() != 0) continue;
      pool = Buffer((kPool + kRun) * size_of(dtype));
      for (uint64_t i = 0; i < kPool + kRun; ++i) store_element(dtype, pool.data(), i, style.mean + style.deviation * normal(i));
    }
  }

  // Elements [first, first + dst.size() / size) of the tensor, row-major. thread: any
  void fill(std::string_view tensor, uint64_t first, std::span<std::byte> dst) const {
    const std::byte* pool = pools_.at(style_of(tensor)).data();
    const size_t size = size_of(dtype_);
    const uint64_t key = XXH3_64bits_withSeed(tensor.data(), tensor.size(), seed_);
    for (size_t done = 0; done < dst.size();) {
      const uint64_t run = first / kRun, skip = first % kRun;
      const size_t n = std::min<size_t>(kRun - skip, (dst.size() - done) / size);
      std::memcpy(dst.data() + done, pool + (mix(key + run * kGolden) % kPool + skip) * size, n * size);
      done += n * size;
      first += n;
    }
  }

 private:
  static constexpr uint64_t kPool = 1 << 20;  // values to draw runs from
  static constexpr uint64_t kRun = 4096;
  static constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

  struct Style {
    float mean, deviation;
    bool operator<(const Style& o) const { return std::tie(mean, deviation) < std::tie(o.mean, o.deviation); }
  };

  // splitmix64's output function (Steele, Lea, Flood 2014)
  static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  }

  // the sum of four uniform values has variance 4 / 12; all steps are exact or correctly rounded, so every machine gets the same bits
  float normal(uint64_t i) const {
    const uint64_t x = mix(seed_ * kGolden + i + 1);
    const auto sum = static_cast<int64_t>((x & 0xFFFF) + (x >> 16 & 0xFFFF) + (x >> 32 & 0xFFFF) + (x >> 48)) - 2 * 65535;
    return static_cast<float>(sum) * (1.7320508f / 65536.0f);
  }

  Style style_of(std::string_view name) const {
    const auto fan_in = [](int64_t n) { return 1.0f / std::sqrt(static_cast<float>(n)); };
    const float residual = fan_in(2 * model_.n_layers);
    if (name.ends_with("norm.weight")) return {1.0f, 0.02f};
    if (name.ends_with(".bias")) return {0.0f, 0.02f};
    if (name == "embed.tokens" || name == "embed.project_in" || name == "head.logits") return {0.0f, fan_in(model_.embed_width)};
    if (name.ends_with(".out.weight")) return {0.0f, fan_in(model_.width) * residual};
    if (name.ends_with(".fc2.weight")) return {0.0f, fan_in(model_.ffn) * residual};
    return {0.0f, fan_in(model_.width)};  // positions, qkv, fc1, project_out
  }

  ModelDescription model_;
  DType dtype_;
  uint64_t seed_;
  std::map<Style, Buffer> pools_;
};

}  // namespace flexgen
