// SPDX-License-Identifier: Apache-2.0
// JSON from strangers: what is accepted is what nlohmann-json's own parser makes of it; what is refused as invalid, it refuses too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "flexgen/format/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const nlohmann::json j = flexgen::parse_json(text, "x");
    if (j != nlohmann::json::parse(text)) std::abort();
    if (flexgen::parse_json(j.dump(), "x") != j) std::abort();
  } catch (const flexgen::Error& e) {
    const std::string_view what = e.what();
    if (e.fault() != flexgen::Fault::checkpoint || !what.starts_with("x: ") || what.find("byte") == what.npos) std::abort();
    if ((what.find("invalid JSON") != what.npos || what.find("invalid UTF-8") != what.npos) && nlohmann::json::accept(text)) std::abort();
  }
  return 0;
}
