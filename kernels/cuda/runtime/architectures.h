// SPDX-License-Identifier: Apache-2.0
// Which cards a build has kernels for.
#pragma once

#include <string_view>

namespace flexgen::cuda {

// architectures: as CMake has them, with commas: "75,80-real,90a-real,90-virtual". Machine code of 80 runs on 80, 86 and 89, that of 90a on
// 90 alone; what is not -real is compiled by the driver of any later card too, but for 90a and its like. arch: 10 * major + minor.
constexpr bool has_kernels(std::string_view architectures, int arch) {
  while (!architectures.empty()) {
    std::string_view one = architectures.substr(0, architectures.find(','));
    architectures.remove_prefix(one.size() + (one.size() < architectures.size()));
    if (one == "all" || one == "all-major" || one == "native") return true;
    int built = 0;
    while (!one.empty() && one[0] >= '0' && one[0] <= '9') built = 10 * built + (one[0] - '0'), one.remove_prefix(1);
    if (built == arch) return true;
    if (one.starts_with('a') || built > arch) continue;
    const bool machine_code = one != "-virtual", later = one != "-real";
    if (later || (machine_code && built / 10 == arch / 10)) return true;
  }
  return false;
}

}  // namespace flexgen::cuda
