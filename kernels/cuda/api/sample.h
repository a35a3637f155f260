// SPDX-License-Identifier: Apache-2.0
// A token drawn from each row of logits: the one that engine/sampler.h draws with the same settings and random number, whose order of
// operations is kept (engine/device_sampling.h says for which requests).
#pragma once

#include <cstdint>

#include "flexgen/ops/draw.h"

namespace flexgen::cuda {

// ids[r]: the token; ~id of the first logit that is not finite where one is; kNotDrawn
struct SampleArguments {
  const float* logits = nullptr;  // [rows, vocabulary]
  int64_t stride = 0;             // elements between rows
  const Draw* draws = nullptr;    // [rows] of the device
  int32_t* ids = nullptr;         // [rows]
  int32_t rows = 0;
  int32_t vocabulary = 0;
};

inline constexpr int kSampleThreads = 512;

// Returns 0 or a cudaError_t
int sample(const SampleArguments& a, void* stream);

}  // namespace flexgen::cuda
