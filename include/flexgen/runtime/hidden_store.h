// SPDX-License-Identifier: Apache-2.0
// The hidden states of a sweep's micro-batches between two steps: [T, E] f32 each, in memory or below it: in a spill file, or behind its
// end, where an engine has host memory instead (io/device_io.h). Those below pass through three frames: one is computed on while the next
// one is read and the last one is written. What comes from disk is hashed.
//
// Memory and frames may be a device's where the engine hashes: nothing here touches what lies in them then.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/base/trace.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/runtime/policy.h"

namespace flexgen {

struct HiddenStoreOptions {
  double memory_share = 1;            // of the micro-batches; evenly spread
  double host_share = 0;              // of the micro-batches, behind the end of the file; the rest is in it
  std::span<std::byte> memory;        // for those in memory, 64 B aligned; empty: buffers of its own, not with an engine that hashes
  std::span<std::byte> frames;        // for those below: kFrames of the largest micro-batch; empty: the same
  IoEngine* io = nullptr;             // with fd: needed where memory_share < 1
  int fd = -1;                        // spill file, opened for reading and writing; without one a name for the engine
  uint64_t host_offset = 0;           // where what lies on the host begins, "in" the file
  std::string path = "spill file";    // what messages call it
  bool look_ahead = true;
  Trace* trace = nullptr;
};

struct HiddenStatistics {
  uint64_t bytes_read = 0, bytes_written = 0;       // from and to disk
  uint64_t bytes_from_host = 0, bytes_to_host = 0;  // where the host is below the memory
  uint64_t reread = 0;
  double wait_disk_s = 0, wait_copy_s = 0;          // for what comes from disk, and from the host
};

// thread: one at a time
class HiddenStore {
 public:
  static constexpr size_t kFrames = 3;

  explicit HiddenStore(HiddenStoreOptions options) : options_(std::move(options)), engine_hashes_(options_.io && options_.io->hashes()) {
    FG_CHECK(options_.memory_share >= 1 || (options_.io && options_.fd >= 0), "a share of {} in memory and no spill file", options_.memory_share);
  }
  ~HiddenStore() { settle(); }

  static size_t frame_bytes(int64_t n_tok, int64_t width) { return round_up(static_cast<size_t>(n_tok * width) * sizeof(float), size_t{4096}); }
  // how many of n micro-batches lie in each tier (device: memory); no fewer of a larger n
  static std::array<int64_t, kTiers> places(double memory_share, double host_share, int64_t n) {
    const auto part = [](int64_t of, double share) { return static_cast<int64_t>(std::floor(static_cast<double>(of) * share + 1e-9)); };
    const double below = 1 - std::min(memory_share, 1.0), disk_share = below - host_share;
    const int64_t lower = part(n, below), disk = disk_share > 1e-9 ? part(lower, disk_share / below) : 0;
    return {n - lower, lower - disk, disk};
  }
  bool all_in_memory() const { return options_.memory_share >= 1; }

  // New micro-batches of n_tok[i] tokens, width floats each, content undefined. What was there is forgotten.
  void begin_sweep(std::span<const int64_t> n_tok, int64_t width) {
    settle();
    batches_.clear();
    size_t in_memory = 0, largest = 0;
    std::array<int64_t, kTiers> before{};
    for (const int64_t n : n_tok) {
      Batch b;
      b.bytes = static_cast<size_t>(n * width) * sizeof(float);
      const auto with = places(options_.memory_share, options_.host_share, static_cast<int64_t>(batches_.size()) + 1);
      while (with[static_cast<size_t>(b.tier)] == before[static_cast<size_t>(b.tier)]) b.tier = static_cast<Tier>(static_cast<int>(b.tier) + 1);
      b.place = static_cast<size_t>(before[static_cast<size_t>(b.tier)]);
      if (b.tier == Tier::device) b.place = std::exchange(in_memory, in_memory + b.bytes);
      before = with;
      largest = std::max(largest, b.bytes);
      batches_.push_back(b);
    }
    memory_ = room(options_.memory, own_memory_, in_memory);
    if (before[0] == static_cast<int64_t>(batches_.size())) return;
    frame_bytes_ = round_up(largest, size_t{4096});
    std::byte* const frames = room(options_.frames, own_frames_, kFrames * frame_bytes_);
    for (size_t f = 0; f < kFrames; ++f) frames_[f].data = frames + f * frame_bytes_;
  }

  // The states of micro-batch i, to be read (unless fresh: they will be overwritten) and changed, until released
  float* acquire(size_t i, bool fresh) {
    Batch& b = batches_[i];
    if (b.tier == Tier::device) return reinterpret_cast<float*>(memory_ + b.place);
    Frame* f = frame_of(i);
    if (!f) {
      f = &free_frame();
      f->batch = i;
      if (!fresh) read(*f);
    }
    finish(*f);
    f->held = true;
    if (options_.look_ahead && !fresh) read_next(i);
    return reinterpret_cast<float*>(f->data);
  }

  // changed: it is written behind
  void release(size_t i, bool changed) {
    const Batch& b = batches_[i];
    if (b.tier == Tier::device) return;
    Frame& f = *frame_of(i);
    f.held = false;
    if (!changed) return;
    if (hashed_here(b)) f.hash = XXH3_64bits_withSeed(f.data, frame_bytes_, i);
    f.writing = true;
    submit(f, IoRequest::Op::write);
    (b.tier == Tier::disk ? stats_.bytes_written : stats_.bytes_to_host) += frame_bytes_;
  }

  const HiddenStatistics& statistics() const { return stats_; }

 private:
  struct Batch {
    size_t bytes = 0;
    Tier tier = Tier::device;
    size_t place = 0;    // bytes into memory_, or number in its tier
    uint64_t hash = 0;   // of its frame as written to disk
  };
  static constexpr size_t kNone = SIZE_MAX;
  struct Frame {
    std::byte* data = nullptr;
    size_t batch = kNone;
    bool held = false, reading = false, writing = false;
    IoTicket ticket;
    uint64_t hash = 0;  // of what its last transfer moved, from or to disk
  };

  std::byte* room(std::span<std::byte> given, Buffer& own, size_t bytes) const {
    FG_CHECK(!given.empty() || bytes == 0 || !engine_hashes_, "no memory for {} bytes", bytes);
    if (!given.empty()) {
      FG_CHECK(given.size() >= bytes, "{} bytes for {}", given.size(), bytes);
      return given.data();
    }
    if (own.size() < bytes) own = Buffer(bytes);
    return own.data();
  }

  Frame* frame_of(size_t batch) {
    for (Frame& f : frames_)
      if (f.batch == batch) return &f;
    return nullptr;
  }

  // one that holds nothing needed: an idle one, else the one whose transfer ends first of those that are no reading
  Frame& free_frame() {
    for (Frame& f : frames_)
      if (!f.held && !f.reading && (!f.writing || f.ticket.done())) {
        finish(f);
        f.batch = kNone;
        return f;
      }
    for (Frame& f : frames_)
      if (!f.held && !f.reading) {
        finish(f);
        f.batch = kNone;
        return f;
      }
    FG_CHECK(false, "all {} frames are in use", kFrames);
    return frames_[0];
  }

  void read_next(size_t i) {
    for (size_t k = 1; k < batches_.size(); ++k) {
      const size_t next = (i + k) % batches_.size();
      if (batches_[next].tier == Tier::device) continue;
      if (frame_of(next)) return;
      for (Frame& f : frames_) {
        if (f.held || f.reading || (f.writing && !f.ticket.done())) continue;
        finish(f);
        f.batch = next;
        read(f);
        return;
      }
      return;
    }
  }

  void read(Frame& f) {
    f.reading = true;
    submit(f, IoRequest::Op::read);
    (batches_[f.batch].tier == Tier::disk ? stats_.bytes_read : stats_.bytes_from_host) += frame_bytes_;
  }

  uint64_t offset(const Frame& f) const {
    const Batch& b = batches_[f.batch];
    return (b.tier == Tier::host ? options_.host_offset : 0) + b.place * frame_bytes_;
  }
  bool hashed_here(const Batch& b) const { return b.tier == Tier::disk && !engine_hashes_; }

  void submit(Frame& f, IoRequest::Op op) {
    const IoRequest r{.op = op, .fd = options_.fd, .offset = offset(f), .data = f.data, .bytes = frame_bytes_, .ticket = &f.ticket, .layer = -1,
                      .micro_batch = static_cast<int32_t>(f.batch), .what = "hidden",
                      .hash = engine_hashes_ && batches_[f.batch].tier == Tier::disk ? &f.hash : nullptr, .seed = f.batch};
    options_.io->submit({&r, 1});
  }

  // waits for the frame's transfer and looks at what came of it
  void finish(Frame& f) {
    if (!f.reading && !f.writing) return;
    Batch& b = batches_[f.batch];
    if (!f.ticket.done()) {
      const bool disk = b.tier == Tier::disk;
      const TimedSpan timed(disk ? stats_.wait_disk_s : stats_.wait_copy_s, options_.trace, TraceEvent::Kind::wait, disk ? "disk" : "copy", -1,
                            static_cast<int32_t>(f.batch));
      f.ticket.wait();
    }
    const bool was_read = std::exchange(f.reading, false);
    f.writing = false;
    check(f, was_read);
    if (!was_read) b.hash = f.hash;
    if (!was_read || intact(f)) return;
    ++stats_.reread;
    submit(f, IoRequest::Op::read);
    f.ticket.wait();
    check(f, true);
    if (!intact(f))
      fail(Fault::damaged, "{}: hidden states damaged: micro-batch {}, bytes {} to {} of the file. Check the disk", options_.path, f.batch, offset(f),
           offset(f) + frame_bytes_ - 1);
  }

  // what was read
  bool intact(Frame& f) const {
    const Batch& b = batches_[f.batch];
    if (hashed_here(b)) f.hash = XXH3_64bits_withSeed(f.data, frame_bytes_, f.batch);
    return b.tier == Tier::host || f.hash == b.hash;
  }

  void check(const Frame& f, bool was_read) const {
    const int error = f.ticket.error();
    if (error == 0) return;
    if (error == IoTicket::kDevice) options_.io->rethrow();
    const bool full = error == ENOSPC || error == EDQUOT;
    fail(full ? Fault::space : Fault::io, "{}: {} hidden states of micro-batch {}, {} bytes at offset {}, failed: {}. {}", options_.path,
         was_read ? "reading" : "writing", f.batch, frame_bytes_, offset(f),
         error == IoTicket::kEndOfFile ? "the file ends before" : std::strerror(error),
         full ? "Free space on that disk or give the activations more memory" : "Check the disk");
  }

  // nothing in flight, nothing held
  void settle() {
    for (Frame& f : frames_) {
      if (f.reading || f.writing) f.ticket.wait();
      f.batch = kNone;
      f.held = f.reading = f.writing = false;
    }
  }

  const HiddenStoreOptions options_;
  const bool engine_hashes_;
  Buffer own_memory_, own_frames_;
  std::byte* memory_ = nullptr;
  size_t frame_bytes_ = 0;
  std::array<Frame, kFrames> frames_;
  std::vector<Batch> batches_;
  HiddenStatistics stats_;
};

}  // namespace flexgen
