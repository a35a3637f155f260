// SPDX-License-Identifier: Apache-2.0
// The table of one instruction set, from its vector class V.
#pragma once

#include "kernels/cpu/attention.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/rows.h"

namespace flexgen::cpu {

template <class V>
constexpr Kernels make_kernels() {
  return {&pack_tokens<V>, &linear_tile<V>, &linear_few<V>, &layer_norm_row<V>, &load_row<V>, &store_row<V>, &attention<V>, &merge_parts<V>};
}

}  // namespace flexgen::cpu
