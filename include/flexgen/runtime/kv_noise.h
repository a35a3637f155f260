// SPDX-License-Identifier: Apache-2.0
// Made-up content for pages of a KV cache: finite, small, the same for the same seed, and as fast as memory. Benchmarks fill a context
// with it that no model has computed.
#pragma once

#include <cstdint>
#include <span>

#include "flexgen/base/xxhash.h"
#include "flexgen/memory/arena.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

class KvNoise {
 public:
  // Numbers in [-1/4, 1/4) in the cache's format, more than a page of them; a page is a stretch of these. pinner: of a device that pages
  // are copied to, or null; outlives this
  KvNoise(DType dtype, size_t page_bytes, HostPinner* pinner = nullptr)
      : dtype_(dtype), page_bytes_(page_bytes), noise_(page_bytes + kSpare * size_of(dtype)), pinner_(pinner) {
    for (size_t i = 0; i < noise_.size() / size_of(dtype); ++i) {
      const uint64_t r = XXH3_64bits(&i, sizeof i);
      store_element(dtype, noise_.data(), i, static_cast<float>(r >> 40) * 0x1p-25f - 0.25f);
    }
    if (pinner_) pinner_->pin(noise_.bytes());
  }
  KvNoise(const KvNoise&) = delete;
  KvNoise& operator=(const KvNoise&) = delete;
  ~KvNoise() {
    if (pinner_) pinner_->unpin(noise_.bytes());
  }

  // random: chooses the stretch
  std::span<const std::byte> page(uint64_t random) const { return noise_.bytes().subspan(random % kSpare * size_of(dtype_), page_bytes_); }

 private:
  static constexpr size_t kSpare = 4096;  // places where a page can begin

  DType dtype_;
  size_t page_bytes_;
  Buffer noise_;
  HostPinner* pinner_;
};

}  // namespace flexgen
