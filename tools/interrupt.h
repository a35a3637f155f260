// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM: the first asks the running work to stop, which it does at its next check; the second ends the process at once.
#pragma once

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "flexgen/base/error.h"

namespace flexgen::tools {

// Set by the handler; work polls it. One flag for the process, because signals are the process's.
inline std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // so that the handler may touch it

// throws Fault::interrupted where the user asked to stop
inline void check_interrupted() {
  if (interrupted.load(std::memory_order_relaxed)) fail(Fault::interrupted, "interrupted");
}

// Installs the handler for SIGINT and SIGTERM. Blocking reads of standard input return EINTR.
inline void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) {
    if (interrupted.exchange(true)) ::_exit(130);
  };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

}  // namespace flexgen::tools
