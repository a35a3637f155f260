// SPDX-License-Identifier: Apache-2.0
// Sizes as people write them: any text is a number of bytes or a Fault::usage, and what was read can be printed and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "flexgen/base/bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const uint64_t n = flexgen::parse_bytes(text);
    const uint64_t again = flexgen::parse_bytes(flexgen::format_bytes(n));
    // three significant digits: at most half a unit of the third
    const double error = static_cast<double>(again > n ? again - n : n - again);
    if (error > 0.006 * static_cast<double>(n)) std::abort();
    if (flexgen::with_commas(n).size() < std::to_string(n).size()) std::abort();
  } catch (const flexgen::Error& e) {
    if (e.fault() != flexgen::Fault::usage || std::string_view(e.what()).empty()) std::abort();
  }
  return 0;
}
