// SPDX-License-Identifier: Apache-2.0
// A card for tests of those who use one. Work runs late and in any order that streams and events allow (support/fake_streams.h), its
// memory is out of the host's reach (support/fake_memory.h), and it runs out of memory or breaks at a chosen call.
//
// A copy reads its source when it runs. Memory that was released or unpinned by then, or was never the card's or pinned, is an error of
// the card: whoever waits next gets it, and everybody after him. Whatever is alive when the card goes ends the process, and so does an
// error that nobody got.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "flexgen/memory/device.h"
#include "flexgen/memory/device_text.h"
#include "support/fake_memory.h"
#include "support/fake_streams.h"

namespace flexgen::testing {

struct FakeDeviceOptions {
  Lateness lateness = Lateness::late;
  uint64_t seed = 1;
  uint64_t capacity_bytes = 256_MiB;
  DeviceInfo info{0, "Fake card", 90, 132, 232448, 0};  // total_bytes: of capacity_bytes
  // Counted from 1, 0: never
  int64_t fail_allocation = 0;  // that one finds no memory
  int64_t fail_pin = 0;         // that one is refused
  int64_t fail_call = 0;        // from that call on the card is broken
};

class FakeDevice final : public Device {
 public:
  explicit FakeDevice(FakeDeviceOptions options = {}) : options_(std::move(options)), streams_(options_.lateness, options_.seed) {
    options_.info.total_bytes = options_.capacity_bytes;
  }
  FakeDevice(const FakeDevice&) = delete;
  FakeDevice& operator=(const FakeDevice&) = delete;
  ~FakeDevice() override {
    if (allocations() + streams() + events() + pins() > 0) {
      std::fprintf(stderr, "the fake card goes with %zu allocations, %zu streams, %zu events, %zu pins\n", allocations(), streams(), events(),
                   pins());
      std::abort();
    }
    if (streams_.error() && !error_seen_) {
      std::fprintf(stderr, "the fake card goes with an error that nobody got:\n");
      try {
        std::rethrow_exception(streams_.error());
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
      }
      std::abort();
    }
  }

  void pin(std::span<std::byte> memory) override {
    call([&] {
      if (++pin_calls_ == options_.fail_pin) fail(Fault::space, "{}: pinning {} failed on purpose", name_of(info()), format_bytes(memory.size()));
      const auto next = pins_.lower_bound(memory.data() + memory.size());
      const bool overlap = next != pins_.begin() && std::prev(next)->first + std::prev(next)->second > memory.data();
      FG_CHECK(!memory.empty() && !overlap, "{} bytes at {} are pinned already", memory.size(), static_cast<void*>(memory.data()));
      pins_[memory.data()] = memory.size();
    });
  }
  void unpin(std::span<std::byte> memory) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto found = pins_.find(memory.data());
    FG_CHECK(found != pins_.end() && found->second == memory.size(), "{} bytes at {} were not pinned", memory.size(),
             static_cast<void*>(memory.data()));
    pins_.erase(found);
  }

  const DeviceInfo& info() const override { return options_.info; }
  uint64_t free_bytes() override {
    return call([&] { return options_.capacity_bytes - memory_.used_bytes(); });
  }
  std::byte* allocate(size_t bytes) override {
    return call([&] {
      FG_CHECK(bytes > 0, "nothing to allocate");
      const uint64_t free = options_.capacity_bytes - memory_.used_bytes();
      if (bytes > free || ++allocate_calls_ == options_.fail_allocation) out_of_device_memory(info(), bytes, free);
      std::byte* const data = memory_.allocate(bytes);
      if (on_allocate_) on_allocate_(data, bytes);
      return data;
    });
  }
  void release(std::byte* data) noexcept override {
    const std::lock_guard lock(mutex_);
    memory_.release(data);
    if (on_release_) on_release_(data);
  }

  Stream create_stream() override {
    return call([&] { return streams_.create_stream(); });
  }
  void destroy(Stream stream) noexcept override {
    const std::lock_guard lock(mutex_);
    streams_.destroy_stream(stream);
    memory_.close();
  }
  Event create_event(bool timed = false) override {
    return call([&] { return streams_.create_event(timed); });
  }
  void destroy_event(Event event) noexcept override {
    const std::lock_guard lock(mutex_);
    streams_.destroy_event(event);
  }

  void copy(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    call([&] {
      check_copy(to, from, bytes);
      if (!memory_.holds(to, bytes)) bytes_to_host_ += bytes;
      streams_.give(stream, [=, this] {
        check_copy(to, from, bytes);
        memory_.open();
        std::memmove(to, from, bytes);
      });
    });
  }
  void record(Event event, Stream stream) override {
    call([&] { streams_.record(event, stream); });
  }
  void wait(Event event, Stream stream) override {
    call([&] { streams_.wait(event, stream); });
  }
  bool done(Event event) override {
    return call([&] { return streams_.done(event); });
  }
  void synchronize(Event event) override {
    call([&] { streams_.synchronize(event); });
  }
  void synchronize_stream(Stream stream) override {
    call([&] { streams_.run_all(stream); });
  }
  double seconds_between(Event from, Event to) override {
    return call([&] { return streams_.seconds_between(from, to); });
  }

  void push_range(const char*) override { ++ranges(); }
  void pop_range() override { FG_CHECK(ranges()-- > 0, "no range to end"); }

  // Work of any kind for a stream: a launch. It may touch the card's memory, and must not call the card.
  void run(Stream stream, std::function<void()> work) {
    call([&] {
      streams_.give(stream, [this, work = std::move(work)] {
        memory_.open();
        work();
      });
    });
  }

  // What the memory of the card holds now: all that was given and not waited for may be missing
  std::vector<std::byte> peek(const std::byte* data, size_t bytes) {
    const std::lock_guard lock(mutex_);
    FG_CHECK(memory_.holds(data, bytes), "{} bytes at {} are not in the card's memory", bytes, static_cast<const void*>(data));
    memory_.open();
    std::vector<std::byte> copy(data, data + bytes);
    memory_.close();
    return copy;
  }

  // Is it in one allocation? In one pinned range?
  bool holds(const void* data, size_t bytes) const {
    const std::lock_guard lock(mutex_);
    return memory_.holds(data, bytes);
  }
  bool pinned(const void* data, size_t bytes) const {
    const std::lock_guard lock(mutex_);
    return is_pinned(data, bytes);
  }

  // For whoever keeps account of its allocations, from the first on
  void watch(std::function<void(std::byte*, size_t)> on_allocate, std::function<void(std::byte*)> on_release) {
    const std::lock_guard lock(mutex_);
    FG_CHECK(memory_.alive() == 0, "{} allocations before the first was watched", memory_.alive());
    on_allocate_ = std::move(on_allocate), on_release_ = std::move(on_release);
  }

  // What is alive, or waits to run
  size_t allocations() const { return locked([&] { return memory_.alive(); }); }
  uint64_t used_bytes() const { return locked([&] { return memory_.used_bytes(); }); }
  size_t streams() const { return locked([&] { return streams_.streams(); }); }
  size_t events() const { return locked([&] { return streams_.events(); }); }
  size_t pins() const { return locked([&] { return pins_.size(); }); }
  size_t waiting() const { return locked([&] { return streams_.waiting(); }); }
  uint64_t bytes_to_host() const { return locked([&] { return bytes_to_host_; }); }  // of copies that were given
  // All so far that may throw: the unit of fail_call
  int64_t calls() const { return locked([&] { return calls_; }); }

 private:
  template <typename Fn>
  std::invoke_result_t<Fn> locked(Fn fn) const {
    const std::lock_guard lock(mutex_);
    return fn();
  }

  // Every call that may throw
  template <typename Fn>
  std::invoke_result_t<Fn> call(Fn fn) {
    const std::lock_guard lock(mutex_);
    struct Close {
      FakeMemory& memory;
      ~Close() { memory.close(); }
    } const close{memory_};
    try {
      if (streams_.error()) std::rethrow_exception(streams_.error());
      if (++calls_ >= options_.fail_call && options_.fail_call > 0) {
        streams_.stop(std::make_exception_ptr(Error(Fault::gpu, fmt::format("{}: call {} failed on purpose", name_of(info()), calls_))));
        std::rethrow_exception(streams_.error());
      }
      streams_.run_some();
      if constexpr (std::is_void_v<std::invoke_result_t<Fn>>) {
        fn();
        streams_.run_given();
      } else {
        return fn();  // gives no work
      }
    } catch (...) {
      error_seen_ = error_seen_ || streams_.error();
      throw;
    }
  }

  bool is_pinned(const void* p, size_t bytes) const {
    const auto next = pins_.upper_bound(static_cast<const std::byte*>(p));
    if (next == pins_.begin()) return false;
    const auto offset = static_cast<size_t>(static_cast<const std::byte*>(p) - std::prev(next)->first), size = std::prev(next)->second;
    return offset <= size && bytes <= size - offset;
  }
  void check_copy(const std::byte* to, const std::byte* from, size_t bytes) const {
    const auto check = [&](const std::byte* p, const char* end) {
      const bool device = memory_.holds(p, bytes);
      if (!device && !is_pinned(p, bytes))
        fail(Fault::gpu, "{}: copy of {} bytes: its {}, {}, is {}", name_of(info()), bytes, end, static_cast<const void*>(p),
             memory_.was_released(p, bytes) ? "memory of the card that was released" : "neither the card's nor pinned");
      return device;
    };
    const bool to_device = check(to, "target"), from_device = check(from, "source");
    FG_CHECK(to_device || from_device, "a copy of {} bytes from host to host", bytes);
  }

  static int& ranges() {
    static thread_local int open = 0;
    return open;
  }

  FakeDeviceOptions options_;
  mutable std::mutex mutex_;
  FakeMemory memory_;
  FakeStreams streams_;
  std::map<const std::byte*, size_t> pins_;
  std::function<void(std::byte*, size_t)> on_allocate_;
  std::function<void(std::byte*)> on_release_;
  int64_t calls_ = 0, allocate_calls_ = 0, pin_calls_ = 0;
  uint64_t bytes_to_host_ = 0;
  bool error_seen_ = false;
};

}  // namespace flexgen::testing
