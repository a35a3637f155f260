// SPDX-License-Identifier: Apache-2.0
// Runs of flexgen generate, and their answers as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"

namespace flexgen::testing {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

inline RunResult generate(const std::string& model, Strings arguments, const RunOptions& options = {}) {
  arguments.insert(arguments.begin(), {"generate", "--model", model});
  return run_flexgen(arguments, options);
}

inline std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) all.push_back(Json::parse(line));
  return all;
}

// runs with --json, which must succeed
inline std::vector<Json> answers(const std::string& model, Strings arguments) {
  arguments.push_back("--json");
  const RunResult r = generate(model, arguments);
  INFO(r.err);
  REQUIRE(r.exit == 0);
  return json_lines(r.out);
}

inline const std::string& tiny() { return fixture_model("tiny-opt"); }

inline Strings operator+(Strings a, const Strings& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace flexgen::testing
