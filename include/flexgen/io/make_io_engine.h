// SPDX-License-Identifier: Apache-2.0
// The I/O engine that this machine allows: io_uring where a ring can be made and used, four threads elsewhere.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "flexgen/io/fault_spec.h"
#include "flexgen/io/faulty_backend.h"
#include "flexgen/io/queued_engine.h"
#include "flexgen/io/thread_backend.h"
#include "flexgen/io/uring_backend.h"

namespace flexgen {

struct IoEngineOptions {
  std::string engine = "auto";       // auto, uring or threads
  QueueLimits limits;
  std::span<std::byte> memory;       // where most transfers go, to be registered if the system allows; outlives the engine
  std::vector<int> files;            // to be registered; open as long as the engine
  std::optional<FaultSpec> faults;   // made on purpose
  Trace* trace = nullptr;            // outlives the engine
};

// "EPERM" and the like
inline std::string errno_name(int error) {
  const char* name = ::strerrorname_np(error);
  return name ? name : std::to_string(error);
}

// Probes by doing: a ring is made and read through. What is done without, and why, is in its note(). An engine of another name is a
// Fault::usage; "uring" where it does not work a Fault::io.
inline std::unique_ptr<QueuedEngine> make_io_engine(IoEngineOptions options = {}) {
  if (options.engine != "auto" && options.engine != "uring" && options.engine != "threads")
    fail(Fault::usage, "the I/O engine: found '{}', allowed auto, uring or threads", printable(options.engine));
  std::unique_ptr<IoBackend> backend;
  std::string note;
  if (options.engine != "threads") {
    try {
      backend = std::make_unique<UringBackend>(UringOptions{options.memory, std::move(options.files)});
      note = backend->note();
    } catch (const std::system_error& e) {
      const int error = e.code().value();
      const std::string cause = fmt::format("io_uring {} ({})",
                                            error == EPERM || error == EACCES ? "is forbidden here"
                                            : error == ENOSYS                 ? "is missing here"
                                                                              : "does not work here",
                                            errno_name(error));
      if (options.engine == "uring") fail(Fault::io, "{}. Choose the engine 'threads', which is as fast for large blocks, or 'auto'", cause);
      note = fmt::format("{}; {} threads read instead", cause, ThreadBackend::kThreads);
    }
  }
  if (!backend) backend = std::make_unique<ThreadBackend>();
  if (options.faults) backend = std::make_unique<FaultyBackend>(std::move(backend), std::move(*options.faults));
  return std::make_unique<QueuedEngine>(std::move(backend), options.limits, options.trace, std::move(note));
}

}  // namespace flexgen
