// SPDX-License-Identifier: Apache-2.0
// The source line of a call, as a default argument. std::source_location does the same, but clang 14, whose clang-tidy reads these
// headers, lacks it.
#pragma once

namespace flexgen::emu {

struct Location {
  const char* file = nullptr;  // nullptr: a plain memory access, known only by its program counter
  int line = 0;

  static constexpr Location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

  bool operator==(const Location&) const = default;
};

}  // namespace flexgen::emu
