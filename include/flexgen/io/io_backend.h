// SPDX-License-Identifier: Apache-2.0
// What moves bytes, without policy: a backend tries an operation once and reports what the kernel said. Queues, limits and retries are
// the engine's (io/queued_engine.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <pthread.h>
#include <signal.h>

#include "flexgen/base/error.h"
#include "flexgen/io/io_engine.h"

namespace flexgen {

struct IoAttempt {
  IoRequest::Op op = IoRequest::Op::read;
  int fd = -1;
  uint64_t offset = 0;
  std::byte* data = nullptr;
  size_t bytes = 0;
  uint64_t tag = 0;  // comes back with the result
};

class IoBackend {
 public:
  // bytes that were moved, or -errno
  using Report = std::function<void(uint64_t tag, int64_t result)>;

  virtual ~IoBackend() = default;  // everything started has been reported by then

  // Once, before anything is started. report is called on the backend's threads, never inside start(), and holds none of its locks.
  virtual void listen(Report report) = 0;
  // At most kMostAttempts may be under way. thread: any, also from report
  virtual void start(std::span<const IoAttempt> attempts) = 0;
  virtual std::string_view name() const = 0;
  virtual std::string note() const { return {}; }  // what it does without, and why; one line or empty

  static constexpr size_t kMostAttempts = 128;
};

// A thread that takes no signal, so that the main thread does. More than the system gives is a Fault::space.
template <typename Fn>
std::thread start_io_thread(Fn&& fn) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  std::error_code error;
  try {
    thread = std::thread(std::forward<Fn>(fn));
  } catch (const std::system_error& e) {
    error = e.code();
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error) fail(Fault::space, "a thread for reading and writing cannot be started: {}", error.message());
  return thread;
}

}  // namespace flexgen
