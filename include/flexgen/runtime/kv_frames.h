// SPDX-License-Identifier: Apache-2.0
// Memory of the KV cache: frames of one page each, cut from a region that was handed in, or from chunks that are mapped as they are needed.
// Nothing here touches what lies in them: they may be a device's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

// thread: one at a time
class KvFrames {
 public:
  using Frame = uint32_t;
  static constexpr Frame kNone = ~Frame{0};

  // frame_bytes: a multiple of 4 KiB. memory: at least max frames, at a multiple of `alignment`, and outlives this; empty: mapped here
  KvFrames(size_t frame_bytes, size_t max, std::span<std::byte> memory = {}, size_t alignment = 4096)
      : frame_bytes_(frame_bytes), frames_per_chunk_(std::max<size_t>(1, kChunkBytes / frame_bytes)), max_(max), memory_(memory) {
    FG_CHECK(frame_bytes > 0 && frame_bytes % 4096 == 0, "frames of {} bytes", frame_bytes);
    FG_CHECK(max < kNone, "{} frames", max);
    FG_CHECK(memory.empty() || memory.size() / frame_bytes >= max, "{} bytes for {} frames of {}", memory.size(), max, frame_bytes);
    FG_CHECK(reinterpret_cast<uintptr_t>(memory.data()) % alignment == 0, "memory at {}", static_cast<const void*>(memory.data()));
  }

  // content undefined. There must be one left.
  Frame allocate() {
    if (free_.empty()) grow();
    const Frame f = free_.back();
    free_.pop_back();
    ++used_;
    return f;
  }
  void release(Frame f) {
    FG_CHECK(f < made_ && used_ > 0, "frame {}", f);
    free_.push_back(f);
    --used_;
  }

  std::byte* data(Frame f) const {
    if (!memory_.empty()) return memory_.data() + f * frame_bytes_;
    return chunks_[f / frames_per_chunk_].data() + (f % frames_per_chunk_) * frame_bytes_;
  }
  size_t frame_bytes() const { return frame_bytes_; }
  size_t max() const { return max_; }
  size_t used() const { return used_; }
  size_t left() const { return max_ - used_; }

 private:
  static constexpr size_t kChunkBytes = 32_MiB;

  void grow() {
    FG_CHECK(made_ < max_, "all {} frames of the KV cache are in use", max_);
    const size_t n = std::min(frames_per_chunk_, max_ - made_);
    if (memory_.empty()) chunks_.emplace_back(n * frame_bytes_);
    for (size_t i = n; i-- > 0;) free_.push_back(static_cast<Frame>(made_ + i));
    made_ += n;
  }

  size_t frame_bytes_, frames_per_chunk_, max_;
  size_t made_ = 0, used_ = 0;
  std::span<std::byte> memory_;
  std::vector<Buffer> chunks_;
  std::vector<Frame> free_;  // the next one at the back: the warmest first
};

}  // namespace flexgen
