// SPDX-License-Identifier: Apache-2.0
// Letters for dimensions, used in every shape comment of the engine:
//   T tokens of a micro-batch   S positions of a sequence (context)   L layers   V vocabulary rows   P position rows
//   E model width   F ffn width   H query heads   Hk KV heads   D head size   W word embedding width (E, but 512 in OPT-350m)
//   N output features (rows of a weight)   K input features (columns of a weight, the reduction)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flexgen {

using Shape = std::vector<int64_t>;

// "[4096, 1024]"
inline std::string to_string(const Shape& s) {
  std::string out = "[";
  for (size_t i = 0; i < s.size(); ++i) out += (i ? ", " : "") + std::to_string(s[i]);
  return out + "]";
}

}  // namespace flexgen
