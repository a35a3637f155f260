// SPDX-License-Identifier: Apache-2.0
// A thread and the queue of what it works on, one thing after the other in the order in which they came. The work may block: that is
// what the thread is for.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "flexgen/io/io_backend.h"

namespace flexgen {

template <typename T>
class Belt {
 public:
  // work must not throw
  explicit Belt(std::function<void(T)> work) : work_(std::move(work)), thread_(start_io_thread([this] { run(); })) {}
  Belt(const Belt&) = delete;
  Belt& operator=(const Belt&) = delete;
  // what is queued is worked on first
  ~Belt() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      wake_.notify_one();
    }
    thread_.join();
  }

  // thread: any
  void push(T thing) {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(thing));
    if (queue_.size() == 1) wake_.notify_one();
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      T thing = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work_(std::move(thing));
    }
  }

  const std::function<void(T)> work_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<T> queue_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace flexgen
