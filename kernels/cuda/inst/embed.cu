// SPDX-License-Identifier: Apache-2.0
// Launch of embed: as wide as rows are aligned.
#include "kernels/cuda/api/embed.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/embed.cuh"

namespace flexgen::cuda {
namespace {

template <class Element>
int launch_of(const EmbedArguments& a, void* stream) {
  const bool wide = a.width % 4 == 0 && a.y_stride % 4 == 0 && aligned_to(a.y, 16) && a.row_alignment % (4 * sizeof(Element)) == 0;
  return launch(wide ? embed_kernel<Element, 4> : embed_kernel<Element, 1>, dim3(static_cast<unsigned>(a.n_tok)), dim3(kEmbedThreads), 0, stream, a);
}

}  // namespace

int embed(const EmbedArguments& a, void* stream) {
  if (a.n_tok == 0) return 0;
  switch (a.dtype) {
    case DType::f16: return launch_of<__half>(a, stream);
    case DType::bf16: return launch_of<__nv_bfloat16>(a, stream);
    case DType::f32: return launch_of<float>(a, stream);
  }
  return 0;
}

}  // namespace flexgen::cuda
