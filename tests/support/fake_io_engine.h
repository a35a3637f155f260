// SPDX-License-Identifier: Apache-2.0
// An IoEngine for tests of those who use one: requests end on another thread, late and in any order, and chosen ones fail or bring wrong
// bits. Its file is memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "flexgen/base/handle.h"
#include "flexgen/io/io_engine.h"

namespace flexgen::testing {

// a file in memory of that many bytes
inline Fd spill_file(uint64_t bytes) {
  Fd fd(::memfd_create("spill", MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) throw std::system_error(errno, std::generic_category(), "memfd_create");
  return fd;
}

struct FakeFaults {
  int64_t fail_from = -1, fail_until = -1;  // requests [from, until) fail, counted as they are submitted
  int error = EIO;
  std::set<int64_t> flip;                   // of these reads, counted alone, one bit is wrong
};

class FakeIoEngine final : public IoEngine {
 public:
  explicit FakeIoEngine(uint32_t seed = 1, FakeFaults faults = {}) : random_(seed), faults_(std::move(faults)), thread_([this] { work(); }) {}
  ~FakeIoEngine() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void submit(std::span<const IoRequest> requests) override {
    std::lock_guard lock(mutex_);
    for (const IoRequest& r : requests) {
      r.ticket->start();
      const int64_t n = submitted_++;
      const bool read = r.op == IoRequest::Op::read;
      queue_.push_back({r, n >= faults_.fail_from && n < faults_.fail_until ? faults_.error : 0, read && faults_.flip.contains(reads_)});
      reads_ += read;
    }
    changed_.notify_all();
  }
  void drain() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
  }
  IoStatistics statistics() const override {
    std::lock_guard lock(mutex_);
    return statistics_;
  }
  std::string_view name() const override { return "fake"; }

  int64_t submitted() const {
    std::lock_guard lock(mutex_);
    return submitted_;
  }
  void set_faults(FakeFaults f) {
    std::lock_guard lock(mutex_);
    faults_ = std::move(f);
  }
  // nothing ends until it is let go
  void hold(bool on) {
    std::lock_guard lock(mutex_);
    held_ = on;
    changed_.notify_all();
  }

 private:
  struct Job {
    IoRequest request;
    int error;
    bool flip;
  };

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return (!queue_.empty() && !held_) || (stop_ && queue_.empty()); });
      if (queue_.empty()) return;
      const size_t at = random_() % queue_.size();
      const Job job = queue_[at];
      queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(at));
      busy_ = true;
      const bool late = random_() % 8 == 0;
      lock.unlock();
      if (late) std::this_thread::sleep_for(std::chrono::microseconds(50));
      const int error = job.error ? job.error : transfer(job);
      lock.lock();
      const bool read = job.request.op == IoRequest::Op::read;
      if (error) {
        ++statistics_.errors;
      } else {
        ++(read ? statistics_.reads : statistics_.writes);
        (read ? statistics_.bytes_read : statistics_.bytes_written) += job.request.bytes;
      }
      job.request.ticket->finish(error);
      busy_ = false;
      changed_.notify_all();
    }
  }

  static int transfer(const Job& job) {
    const IoRequest& r = job.request;
    const auto offset = static_cast<off_t>(r.offset);
    const ssize_t n = r.op == IoRequest::Op::read ? ::pread(r.fd, r.data, r.bytes, offset) : ::pwrite(r.fd, r.data, r.bytes, offset);
    if (n < 0) return errno;
    if (static_cast<size_t>(n) != r.bytes) return IoTicket::kEndOfFile;
    if (job.flip) r.data[r.bytes / 3] ^= std::byte{4};
    return 0;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> queue_;
  std::minstd_rand random_;
  FakeFaults faults_;
  IoStatistics statistics_;
  int64_t submitted_ = 0, reads_ = 0;
  bool stop_ = false, busy_ = false, held_ = false;
  std::thread thread_;
};

}  // namespace flexgen::testing
