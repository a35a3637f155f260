// SPDX-License-Identifier: Apache-2.0
// The cases of tests/cuda, by name, one at a time.
#pragma once

#include <string>
#include <vector>

#include "bench/gpu/results.h"

namespace flexgen::bench {

std::vector<std::string> case_names();
Check run_case(const std::string& name);  // prints what fails

}  // namespace flexgen::bench
