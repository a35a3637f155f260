// SPDX-License-Identifier: Apache-2.0
// embed: a block copies one token's row.
#pragma once

#include "kernels/cuda/api/embed.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/scalar.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// Grid: n_tok. kWidth divides the width, and all rows are aligned to as many elements.
template <class Element, int kWidth>
FG_KERNEL(kEmbedThreads) embed_kernel(EmbedArguments a) {
  const int token = static_cast<int>(blockIdx.x);
  const Element* const from = static_cast<const Element*>(a.rows[token]);
  float* const to = a.y + token * a.y_stride;
  for (int c = static_cast<int>(threadIdx.x) * kWidth; c < a.width; c += kEmbedThreads * kWidth) {
    const Elements<Element, kWidth> in = load_elements<kWidth>(from + c);
    Elements<float, kWidth> out;
    FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = to_float(in.at[e]);
    if (a.accumulate) {
      const Elements<float, kWidth> old = load_elements<kWidth>(to + c);
      FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = add(old.at[e], out.at[e]);
    }
    store_elements(to + c, out);
  }
}

}  // namespace flexgen::cuda
