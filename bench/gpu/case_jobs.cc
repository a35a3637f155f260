// SPDX-License-Identifier: Apache-2.0
// The cases that the emulator runs in CI, on the card
#include "bench/gpu/card_place.h"
#include "bench/gpu/catch_cases.h"
#include "bench/gpu/jobs.h"

namespace flexgen::bench {

std::vector<Job> case_jobs() {
  std::vector<Job> jobs;
  for (const std::string& name : case_names())
    jobs.push_back({"case: " + name, [name](Session& s) {
      run_cases_on(&s.places());
      const Check check = run_case(name);
      run_cases_on(nullptr);
      s.emit(check);
    }});
  return jobs;
}

}  // namespace flexgen::bench
