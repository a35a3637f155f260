// SPDX-License-Identifier: Apache-2.0
// The reference backend: slow, plain, and always there. Every other backend is tested against it.
#pragma once

#include "flexgen/ops/ref/attention.h"
#include "flexgen/ops/ref/embed.h"
#include "flexgen/ops/ref/layer_norm.h"
#include "flexgen/ops/ref/linear.h"

namespace flexgen::ref {

inline constexpr Backend kBackend{"ref", &linear, &layer_norm, &embed, &kv_append, &attention, &attention_partial, &attention_merge};

}  // namespace flexgen::ref
