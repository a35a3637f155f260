// SPDX-License-Identifier: Apache-2.0
// Catch2 as packaged (version 2), and where the tests' data lies.
#pragma once

#include <catch2/catch.hpp>

#include <filesystem>
#include <optional>
#include <string>

namespace flexgen::testing {

inline std::string test_data(const std::string& name) { return std::string(FLEXGEN_TEST_DATA) + "/" + name; }

// Data beside the repository that a clone may lack: nullopt, with a visible reason, where it is absent
inline std::optional<std::string> shared_data(const std::string& name) {
  std::string path = std::string(FLEXGEN_SHARED_DATA) + "/" + name;
  if (std::filesystem::exists(path)) return path;
  WARN("skipped: " << path << " is not here");
  return std::nullopt;
}

}  // namespace flexgen::testing
