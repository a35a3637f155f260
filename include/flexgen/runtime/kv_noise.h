// SPDX-License-Identifier: Apache-2.0
// Made-up content for pages of a KV cache: finite, small, the same for the same seed, and as fast as memory. Benchmarks fill a context
// with it that no model has computed.
#pragma once

#include <cstring>
#include <vector>

#include "flexgen/base/xxhash.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

class KvNoise {
 public:
  // Numbers in [-1/4, 1/4) in the cache's format, more than a page of them; a page is a stretch of these.
  KvNoise(DType dtype, size_t page_bytes) : dtype_(dtype), page_bytes_(page_bytes), noise_(page_bytes + kSpare * size_of(dtype)) {
    for (size_t i = 0; i < noise_.size() / size_of(dtype); ++i) {
      const uint64_t r = XXH3_64bits(&i, sizeof i);
      store_element(dtype, noise_.data(), i, static_cast<float>(r >> 40) * 0x1p-25f - 0.25f);
    }
  }

  // random: chooses the stretch
  void write(std::byte* page, uint64_t random) const { std::memcpy(page, noise_.data() + random % kSpare * size_of(dtype_), page_bytes_); }

 private:
  static constexpr size_t kSpare = 4096;  // places where a page can begin

  DType dtype_;
  size_t page_bytes_;
  std::vector<std::byte> noise_;
};

}  // namespace flexgen
