// SPDX-License-Identifier: Apache-2.0
// What is made of the results: rates, shares of the ceilings measured in the same run, losses beside the last known file, tables, JSON.
#pragma once

#include <optional>
#include <string>

#include "bench/gpu/results.h"

namespace flexgen::bench {

inline constexpr double kLoss = 0.05;  // of the last known rate; less may be noise

class Report {
 public:
  // last_known: a file that an earlier run wrote, or null. Compared where the card has the same name.
  Report(const Results&, const Json& last_known);

  double bandwidth() const { return bandwidth_; }  // bytes/s, the best that the card's memory gave; 0: not measured
  std::optional<double> of_bandwidth(const Row&) const;
  std::optional<double> of_cublaslt(const Row&) const;  // its rate over that of cuBLASLt for the shape
  std::optional<double> change(const Row&) const;       // of the rate beside the last known one: -0.1 is a tenth slower
  bool lost(const Row& row) const { return change(row).value_or(0) < -kLoss; }
  int losses() const;

  std::string line(const Row&) const;  // of a table
  std::string summary() const;         // of a page or two, with what was not measured
  Json json() const;

 private:
  const Row* find(const std::string& name, const std::string& role) const;
  std::string layers() const;

  const Results& r_;
  Json last_rows_;  // name|kernel|role -> seconds
  double bandwidth_ = 0;
};

std::string time_text(double seconds);

}  // namespace flexgen::bench
