// SPDX-License-Identifier: Apache-2.0
// What happened when: events with a beginning and an end, from any thread, for a timeline. Nobody looks at them while the engine runs.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace flexgen {

// One stretch of time. Its row in the timeline follows from its kind.
struct TraceEvent {
  enum class Kind : uint8_t { compute, wait, verify, read, write, copy_in, copy_out };  // copies: to a device's memory, from it
  Kind kind = Kind::compute;
  const char* what = "";        // "fc1", "attend", "weights", "kv"; for a wait what it waited for: "disk", "slot". Lives for ever
  int32_t layer = -1;           // -1: none
  int32_t micro_batch = -1;     // -1: all
  uint64_t bytes = 0;           // moved or hashed
  int64_t start_ns = 0, end_ns = 0;  // on the monotonic clock
};

inline int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Recording costs about the two readings of the clock: every thread writes into memory of its own, in order, and shares nothing but the
// length. Memory comes in pieces of kChunkEvents as events come, up to a limit; what is beyond is counted, not kept.
class Trace {
 public:
  static constexpr size_t kChunkEvents = 4096;  // 192 KiB

  explicit Trace(size_t max_events = 4'000'000) : max_chunks_((max_events + kChunkEvents - 1) / kChunkEvents) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  uint64_t most_bytes() const {
    std::lock_guard lock(mutex_);
    return max_chunks_ * kChunkBytes;
  }
  // No more memory than that from now on. thread: any
  void limit(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    max_chunks_ = std::min<size_t>(max_chunks_, bytes / kChunkBytes);
  }

  // thread: any; this must outlive all threads that add
  void add(const TraceEvent& e) {
    Mine& mine = mine_of_thread();
    if (mine.trace != id_ || !mine.chunk || mine.chunk->n.load(std::memory_order_relaxed) == kChunkEvents) {
      mine = {id_, next_chunk(mine.thread), mine.thread};
      if (!mine.chunk) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
        return;
      }
    }
    const size_t n = mine.chunk->n.load(std::memory_order_relaxed);
    mine.chunk->events[n] = e;
    mine.chunk->n.store(n + 1, std::memory_order_release);
  }

  // Calls fn(const TraceEvent&) for all that are recorded; each thread's in the order of recording. The references hold as long as the
  // trace. thread: any; while others add, an event of theirs may be missed
  template <typename Fn>
  void for_each(Fn&& fn) const {
    std::lock_guard lock(mutex_);
    for (const auto& chunk : chunks_) {
      const size_t n = chunk->n.load(std::memory_order_acquire);
      for (size_t i = 0; i < n; ++i) fn(chunk->events[i]);
    }
  }

  std::vector<TraceEvent> events() const {
    std::vector<TraceEvent> all;
    for_each([&](const TraceEvent& e) { all.push_back(e); });
    return all;
  }

  // events that were not kept. thread: any
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  struct Chunk {
    std::atomic<size_t> n{0};  // written by one thread only
    uint64_t thread = 0;       // whose
    std::array<TraceEvent, kChunkEvents> events;
  };
  static constexpr uint64_t kChunkBytes = sizeof(Chunk) + 4096;  // with what allocating it costs
  // Where this thread adds to. Traces have numbers, not addresses, so that a new trace is not taken for one that is gone.
  struct Mine {
    uint64_t trace = 0;
    Chunk* chunk = nullptr;
    uint64_t thread = 0;
  };

  static uint64_t next_number() {
    static std::atomic<uint64_t> next{1};
    return next.fetch_add(1, std::memory_order_relaxed);
  }
  static Mine& mine_of_thread() {
    thread_local Mine mine{0, nullptr, next_number()};
    return mine;
  }

  // one of this thread that has room, or null where all memory is used
  Chunk* next_chunk(uint64_t thread) {
    std::lock_guard lock(mutex_);
    for (auto it = chunks_.rbegin(); it != chunks_.rend(); ++it) {
      if ((*it)->thread != thread) continue;
      if ((*it)->n.load(std::memory_order_relaxed) < kChunkEvents) return it->get();  // it was in another trace meanwhile
      break;
    }
    if (chunks_.size() >= max_chunks_) return nullptr;
    auto chunk = std::make_unique_for_overwrite<Chunk>();
    chunk->thread = thread;
    return chunks_.emplace_back(std::move(chunk)).get();
  }

  const uint64_t id_ = next_number();
  std::atomic<uint64_t> dropped_{0};
  mutable std::mutex mutex_;
  size_t max_chunks_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

// Records from its construction to its end, where there is a trace at all.
class TraceSpan {
 public:
  TraceSpan(Trace* trace, TraceEvent::Kind kind, const char* what, int32_t layer = -1, int32_t micro_batch = -1, uint64_t bytes = 0) : trace_(trace) {
    if (trace_) event_ = {kind, what, layer, micro_batch, bytes, monotonic_ns(), 0};
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;
  ~TraceSpan() {
    if (!trace_) return;
    event_.end_ns = monotonic_ns();
    trace_->add(event_);
  }

 private:
  Trace* trace_;
  TraceEvent event_;
};

// The same, and the time is added to `seconds` whether there is a trace or not.
class TimedSpan {
 public:
  template <typename... Event>
  TimedSpan(double& seconds, Trace* trace, TraceEvent::Kind kind, const char* what, const Event&... event)
      : seconds_(seconds), start_ns_(monotonic_ns()), span_(trace, kind, what, event...) {}
  TimedSpan(const TimedSpan&) = delete;
  TimedSpan& operator=(const TimedSpan&) = delete;
  ~TimedSpan() { seconds_ += static_cast<double>(monotonic_ns() - start_ns_) * 1e-9; }

 private:
  double& seconds_;
  int64_t start_ns_;
  TraceSpan span_;
};

}  // namespace flexgen
