// SPDX-License-Identifier: Apache-2.0
// The activations of linear, apart from its arguments: kernels for the device include this, whose compiler cannot read ops/ops.h.
#pragma once

#include <cstdint>

namespace flexgen {

enum class Activation : uint32_t { none, relu, gelu_erf, gelu_tanh };

}  // namespace flexgen
