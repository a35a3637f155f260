// SPDX-License-Identifier: Apache-2.0
// The likeliest token of each row of logits, as engine/sampler.h chooses it where nothing is drawn.
#pragma once

#include <cstdint>

namespace flexgen::cuda {

// ids[r] = the id of the row's largest logit, the lowest where several are equal; ~id of the first logit that is not finite where one
// is (a negative number), for which the CPU sampler has an error.
struct ArgmaxArguments {
  const float* logits = nullptr;  // [rows, vocabulary]
  int64_t stride = 0;             // elements between rows
  int32_t* ids = nullptr;         // [rows]
  int32_t rows = 0;
  int32_t vocabulary = 0;
};

inline constexpr int kArgmaxThreads = 512;

// Returns 0 or a cudaError_t
int argmax(const ArgmaxArguments& a, void* stream);

}  // namespace flexgen::cuda
