// SPDX-License-Identifier: Apache-2.0
// A fixed set of threads that run one parallel loop at a time. The caller is one of them. Which thread runs which task never
// decides a result: tasks write disjoint outputs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "flexgen/base/error.h"

namespace flexgen {

class ThreadPool {
 public:
  // n_threads >= 1, the calling thread included; more than the system gives is a Fault::space
  explicit ThreadPool(int n_threads) {
    FG_CHECK(n_threads >= 1, "{} threads asked for", n_threads);
    try {
      for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& e) {
      const int started = size();
      stop();
      fail(Fault::space, "{} threads: found {} threads, the system gave no more ({}). Lower --threads", n_threads, started, e.code().message());
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // fn(task, worker) for task in [0, n_tasks), worker in [0, size()); tasks are handed out in order, dynamically.
  // Returns when all have ended; rethrows the first exception. Not reentrant: a task must not start a loop on the same pool.
  // thread: one caller at a time
  template <typename Fn>
  void parallel_for(int64_t n_tasks, Fn&& fn) {
    if (n_tasks <= 0) return;
    if (threads_.empty() || n_tasks == 1) {
      for (int64_t i = 0; i < n_tasks; ++i) fn(i, 0);
      return;
    }
    const std::function<void(int64_t, int)> call = [&fn](int64_t task, int worker) { fn(task, worker); };
    {
      std::lock_guard lock(mutex_);
      call_ = &call;
      n_tasks_ = n_tasks;
      next_.store(0, std::memory_order_relaxed);
      running_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
      error_ = nullptr;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(0);
    for (int spin = 0; running_.load(std::memory_order_acquire) != 0 && spin < kSpins; ++spin) pause();
    if (running_.load(std::memory_order_acquire) != 0) {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return running_.load(std::memory_order_acquire) == 0; });
    }
    std::exception_ptr error;
    {
      std::lock_guard lock(mutex_);
      std::swap(error, error_);
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  // About 20 us on a 3 GHz core: longer than the gap between two operations of a layer, so that decoding does not sleep in between.
  static constexpr int kSpins = 500;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }

  void drain(int worker) {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_tasks_;) (*call_)(i, worker);
    } catch (...) {
      next_.store(n_tasks_, std::memory_order_relaxed);
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) pause();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        seen = generation_.load(std::memory_order_acquire);
        if (stop_) return;
      }
      drain(worker);
      std::lock_guard lock(mutex_);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<int64_t> next_{0};
  int64_t n_tasks_ = 0;
  const std::function<void(int64_t, int)>* call_ = nullptr;
  std::exception_ptr error_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace flexgen
