// SPDX-License-Identifier: Apache-2.0
#include "cuda_backend/emulated_card.h"

namespace flexgen::testing {

emu::Options emulation(const FakeDeviceOptions& o) { return {.seed = o.seed, .race = FLEXGEN_RACE != 0, .sm = o.info.arch}; }

}  // namespace flexgen::testing
