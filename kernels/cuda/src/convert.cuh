// SPDX-License-Identifier: Apache-2.0
// Rounds activations to the weights' 16-bit format for the tensor cores: x f32 [T, K] -> [T, padded], zeros from K on.
// Grid: (ceil(padded / (8 * kConvertThreads)), T up to 65535, strided beyond); a thread converts 8 elements and stores 16 bytes.
#pragma once

#include "kernels/cuda/core/linear_arguments.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

inline constexpr int kConvertThreads = 128;

template <class T>
FG_KERNEL(kConvertThreads) convert_rows(ConvertArguments a) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kConvertThreads + threadIdx.x) * 8;
  if (first >= a.padded) return;
  for (int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    const float* const from = a.x + t * a.x_stride + first;
    float v[8];
    if (first + 8 <= a.cols && (reinterpret_cast<uintptr_t>(from) & 15) == 0) {
      const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
      FG_UNROLL for (int i = 0; i < 8; ++i) v[i] = first + i < a.cols ? from[i] : 0.0f;
    }
    *reinterpret_cast<uint4*>(static_cast<T*>(a.to) + t * a.padded + first) =
        make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]), pack<T>(v[6], v[7]));
  }
}

}  // namespace flexgen::cuda
