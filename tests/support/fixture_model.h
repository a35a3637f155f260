// SPDX-License-Identifier: Apache-2.0
// Model files of the committed checkpoints, converted once per test program by the program under test.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "support/catch.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace flexgen::testing {

// The model file of tests/data/<name> ("tiny-opt", "golden/prenorm-f32"); gone when the program ends
inline const std::string& fixture_model(const std::string& name) {
  static TempDir folder;
  static std::map<std::string, std::string> files;
  std::string& file = files[name];
  if (file.empty()) {
    const std::string path = folder / (std::to_string(files.size()) + ".flex");
    const RunResult r = run_flexgen({"convert", test_data(name), "-o", path});
    if (r.exit != 0) throw std::runtime_error("convert " + name + ": " + r.err);
    file = path;
  }
  return file;
}

}  // namespace flexgen::testing
