// SPDX-License-Identifier: Apache-2.0
// The first error of a device, seen by whichever thread, kept for the one that can act on it.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <optional>

#include "flexgen/base/error.h"

namespace flexgen {

// thread: any
class DeviceFailure {
 public:
  bool seen() const { return seen_.load(std::memory_order_acquire); }

  // Inside a catch block: keeps what was caught, unless there is an error already. What is no Error is taken for one of the device.
  void keep_caught() noexcept {
    std::lock_guard lock(mutex_);
    if (error_) return;
    try {
      throw;
    } catch (const Error& e) {
      error_.emplace(e);
    } catch (const std::exception& e) {
      error_.emplace(Fault::gpu, e.what());
    }
    seen_.store(true, std::memory_order_release);
  }

  void rethrow() const {
    if (seen()) throw Error(error_->fault(), error_->what());
  }

 private:
  std::atomic<bool> seen_{false};
  std::mutex mutex_;
  std::optional<Error> error_;  // does not change after seen_
};

}  // namespace flexgen
