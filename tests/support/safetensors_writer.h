// SPDX-License-Identifier: Apache-2.0
// Safetensors files from a header's text and data, right or wrong.
#pragma once

#include <string>

#include "support/byte_writer.h"

namespace flexgen::testing {

inline std::string safetensors_file(const std::string& header, const std::string& data = {}) { return cat(u64(header.size()), header, data); }

}  // namespace flexgen::testing
