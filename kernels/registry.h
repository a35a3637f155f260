// SPDX-License-Identifier: Apache-2.0
// Which backends this build has and this machine can run. Only registry.cc sees build options.
#pragma once

#include <span>
#include <string_view>

#include "flexgen/ops/backend.h"

namespace flexgen {

// Every backend that can run here, the fastest first, "ref" last
std::span<const Backend* const> backends();

// By name, or the fastest for "auto"; an unknown one, or one that this CPU lacks, is a Fault::usage that lists what there is
const Backend& backend(std::string_view name);

}  // namespace flexgen
