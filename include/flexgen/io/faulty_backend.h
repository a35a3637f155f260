// SPDX-License-Identifier: Apache-2.0
// A backend that does what disks and kernels do on their bad days, over one that works: for tests, and for the hidden option --fault.
// It lies as convincingly as it can: what a short read did not read is scribbled over, a flipped bit of a write is flipped on disk alone.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "flexgen/io/fault_spec.h"
#include "flexgen/io/file.h"
#include "flexgen/io/io_backend.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

class FaultyBackend final : public IoBackend {
 public:
  FaultyBackend(std::unique_ptr<IoBackend> inner, FaultSpec spec)
      : spec_(std::move(spec)), counts_(spec_.rules.size()), random_(spec_.seed), inner_(std::move(inner)) {}
  FaultyBackend(const FaultyBackend&) = delete;
  FaultyBackend& operator=(const FaultyBackend&) = delete;
  ~FaultyBackend() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  void listen(Report report) override {
    report_ = std::move(report);
    inner_->listen([this](uint64_t tag, int64_t result) { ended(tag, result); });
    thread_ = start_io_thread([this] { deliver(); });
  }

  void start(std::span<const IoAttempt> attempts) override {
    std::vector<IoAttempt> real;
    {
      std::lock_guard lock(mutex_);
      for (const IoAttempt& a : attempts) {
        Plan plan = make_plan(a);
        if (plan.error != 0) {
          later_.emplace(Clock::now() + plan.delay, Result{a.tag, -plan.error});
          continue;
        }
        real.push_back(plan.real);
        plans_.insert_or_assign(a.tag, std::move(plan));
      }
      inner_under_way_ += real.size();
    }
    wake_.notify_all();
    if (!real.empty()) inner_->start(real);
  }

  std::string_view name() const override { return inner_->name(); }
  std::string note() const override { return inner_->note(); }

 private:
  using Clock = std::chrono::steady_clock;

  struct Result {
    uint64_t tag;
    int64_t result;
  };
  // What is to become of an attempt
  struct Plan {
    IoAttempt real;                // as the inner backend sees it
    std::byte* data = nullptr;     // the caller's
    std::optional<Buffer> copy;    // of what is written, with the flipped bit
    int error = 0;                 // nothing is transferred
    bool flip = false, cut = false;
    std::chrono::nanoseconds delay{0};
  };

  uint64_t below(uint64_t n) { return random_() % n; }

  // mutex_ is held
  Plan make_plan(const IoAttempt& a) {
    const bool read = a.op == IoRequest::Op::read;
    Plan plan{.real = a, .data = a.data};
    for (size_t i = 0; i < spec_.rules.size(); ++i) {
      const FaultRule& r = spec_.rules[i];
      if (!(read ? r.reads : r.writes)) continue;
      const uint64_t n = ++counts_[i];
      const bool strikes = r.nth == 0 ? std::uniform_real_distribution<double>()(random_) < r.probability : r.lasting ? n >= r.nth : n == r.nth;
      if (!strikes) continue;
      using enum FaultRule::Kind;
      switch (r.kind) {
        case eagain: plan.error = EAGAIN; break;
        case eintr: plan.error = EINTR; break;
        case eio: plan.error = EIO; break;
        case enospc: plan.error = ENOSPC; break;
        case delay: plan.delay += r.delay; break;
        case flip: plan.flip = true; break;
        case short_transfer:
          // less is asked for, in whole pages as O_DIRECT needs; of a single page less is told than was done
          plan.cut = a.bytes > 1;
          if (a.bytes > kIoAlign) plan.real.bytes = (1 + below((a.bytes - 1) / kIoAlign)) * kIoAlign;
          break;
        case misdirect: plan.real.offset = a.offset >= kIoAlign ? below(a.offset / kIoAlign) * kIoAlign : a.offset + kIoAlign; break;
      }
    }
    if (plan.flip && !read && plan.error == 0) {
      plan.copy.emplace(plan.real.bytes);
      std::memcpy(plan.copy->data(), a.data, plan.real.bytes);
      flip_bit(plan.copy->bytes());
      plan.real.data = plan.copy->data();
    }
    return plan;
  }

  void flip_bit(std::span<std::byte> bytes) {
    const uint64_t bit = below(bytes.size() * 8);
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
  }

  // thread: the inner backend's
  void ended(uint64_t tag, int64_t result) {
    {
      std::lock_guard lock(mutex_);
      const auto at = plans_.find(tag);
      Plan& plan = at->second;
      const bool read = plan.real.op == IoRequest::Op::read;
      if (result > 0 && read && plan.flip) flip_bit({plan.data, static_cast<size_t>(result)});
      if (result > 1 && plan.cut) {
        const auto told = result - static_cast<int64_t>(below(static_cast<uint64_t>(std::min<int64_t>(result, kIoAlign))));
        if (told < result && read) std::memset(plan.data + told, 0xFA, static_cast<size_t>(result - told));
        result = told;
      }
      later_.emplace(Clock::now() + plan.delay, Result{tag, result});
      plans_.erase(at);
      --inner_under_way_;
    }
    wake_.notify_all();
  }

  // thread: this backend's own. Reports what is due; with reorder, groups of that many or all there will be
  void deliver() {
    std::vector<Result> group;
    std::unique_lock lock(mutex_);
    while (!stop_) {
      while (!later_.empty() && later_.begin()->first <= Clock::now()) {
        group.push_back(later_.begin()->second);
        later_.erase(later_.begin());
      }
      if (group.empty() || (group.size() < spec_.reorder && (inner_under_way_ > 0 || !later_.empty()))) {
        if (later_.empty()) wake_.wait(lock);
        else wake_.wait_until(lock, later_.begin()->first);
        continue;
      }
      if (spec_.reorder > 1) std::shuffle(group.begin(), group.end(), random_);
      lock.unlock();
      for (const Result& r : group) report_(r.tag, r.result);
      group.clear();
      lock.lock();
    }
  }

  const FaultSpec spec_;
  Report report_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<uint64_t> counts_;  // attempts that each rule has seen
  std::mt19937_64 random_;
  std::map<uint64_t, Plan> plans_;  // by tag: what the inner backend is doing
  size_t inner_under_way_ = 0;
  std::multimap<Clock::time_point, Result> later_;
  bool stop_ = false;
  std::thread thread_;

  std::unique_ptr<IoBackend> inner_;  // ends first: its threads use all of the above
};

}  // namespace flexgen
