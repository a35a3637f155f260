// SPDX-License-Identifier: Apache-2.0
// Launch of kv_append: as wide as heads and rows are aligned.
#include "kernels/cuda/api/kv_append.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/kv_append.cuh"

namespace flexgen::cuda {
namespace {

template <class Element>
int launch_of(const KvAppendArguments& a, void* stream) {
  const dim3 grid(static_cast<unsigned>(a.n_spans * ((a.max_tok + kAppendTokens - 1) / kAppendTokens)), 2);
  const bool wide = a.layout.head_dim % 4 == 0 && a.k_stride % 4 == 0 && a.v_stride % 4 == 0 && aligned_to(a.k, 16) && aligned_to(a.v, 16);
  return launch(wide ? kv_append_kernel<Element, 4> : kv_append_kernel<Element, 1>, grid, dim3(kAppendThreads), 0, stream, a);
}

}  // namespace

int kv_append(const KvAppendArguments& a, void* stream) {
  if (a.n_spans == 0 || a.max_tok == 0) return 0;
  return a.layout.dtype == DType::f16 ? launch_of<__half>(a, stream) : launch_of<float>(a, stream);
}

}  // namespace flexgen::cuda
