// SPDX-License-Identifier: Apache-2.0
// What gpu_check finds out, as values that go through a pipe and into a file. bench/gpu/README.md describes the file.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen::bench {

using Json = nlohmann::json;

// One thing that was timed
struct Row {
  std::string group;   // ceilings, linear, attention, other
  std::string name;    // of the shape
  std::string kernel;  // what ran
  // ceiling; chosen: what the engine takes; rounded: the same with x rounded before; one_order: what it takes for --deterministic;
  // variant: another kernel of the table; cublaslt
  std::string role;
  double seconds = 0, least = 0, most = 0;  // of one call: median and spread
  int repeats = 0;
  double bytes = 0, flops = 0;              // least that a call must move through the card's memory, and compute
};

struct Check {
  std::string name;
  uint64_t passed = 0, failed = 0;  // assertions
  std::string message;              // where one failed
};

struct Skipped {
  std::string name, reason;
};

struct Results {
  Json card = Json::object();
  std::vector<Row> rows;
  std::vector<Check> checks;
  std::vector<Skipped> skipped;

  uint64_t passed() const {  // checks
    uint64_t n = 0;
    for (const Check& c : checks) n += c.failed == 0;
    return n;
  }
  uint64_t failed() const { return checks.size() - passed(); }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Row, group, name, kernel, role, seconds, least, most, repeats, bytes, flops)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Check, name, passed, failed, message)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Skipped, name, reason)

}  // namespace flexgen::bench
