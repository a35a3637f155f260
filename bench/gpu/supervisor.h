// SPDX-License-Identifier: Apache-2.0
// Runs jobs in a process of their own, the only one that touches the card. A job that ends it (a fault of the card stays with the process
// that had it) or does not come back is a failed check, and the jobs behind it run in a new process. When time is up the process is ended,
// and what it found stays.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/gpu/session.h"

namespace flexgen::bench {

struct Limits {
  double seconds = 1e9;      // of all jobs
  double job_seconds = 60;   // of one
  bool one_process = false;  // run the jobs here: for debuggers and sanitizers
};

struct Supervised {
  bool no_card = false;
  std::string why_not;  // no card
  Results results;
};

using MakeSession = std::function<std::unique_ptr<Session>(const Emit&, std::string& why_not)>;  // nullptr: no card

// progress: of each thing found, and once a job begins (null) with its name
using Progress = std::function<void(const std::string& job, const Json* found)>;

Supervised supervise(const std::vector<Job>&, const MakeSession&, const Limits&, const Progress&);

}  // namespace flexgen::bench
