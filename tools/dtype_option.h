// SPDX-License-Identifier: Apache-2.0
// --dtype as several commands take it.
#pragma once

#include <optional>
#include <string>

#include "flexgen/base/error.h"
#include "flexgen/tensor/dtype.h"

namespace flexgen::tools {

// "" is no choice; throws Fault::usage
inline std::optional<DType> parse_dtype(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const auto dtype = try_dtype(text);
  if (!dtype) fail(Fault::usage, "--dtype: found '{}', allowed f32, f16 or bf16", printable(text));
  return dtype;
}

}  // namespace flexgen::tools
