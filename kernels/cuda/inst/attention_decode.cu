// SPDX-License-Identifier: Apache-2.0
// Launch of attention on CUDA cores, by cache format, head size and rows, and of the merge of parts.
#include "kernels/cuda/api/attention.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/attention_decode.cuh"
#include "kernels/cuda/src/attention_merge.cuh"

namespace flexgen::cuda {
namespace {

template <class Element, int kColumns>
int launch_of(const AttentionArguments& a, int32_t rows, void* stream) {
  const dim3 grid(static_cast<unsigned>(a.n_items), static_cast<unsigned>(a.layout.n_heads));
  const size_t shared = decode_shared_bytes(a.layout.head_dim, sizeof(Element), rows);
  switch (rows) {
    case 1: return launch(attention_decode_kernel<Element, kColumns, 1>, grid, dim3(kDecodeThreads), shared, stream, a);
    case 2: return launch(attention_decode_kernel<Element, kColumns, 2>, grid, dim3(kDecodeThreads), shared, stream, a);
    case 4: return launch(attention_decode_kernel<Element, kColumns, 4>, grid, dim3(kDecodeThreads), shared, stream, a);
    default: return kInvalidValue;
  }
}

template <class Element>
int launch_of(const AttentionArguments& a, int32_t rows, void* stream) {
  if (a.layout.head_dim <= 64) return launch_of<Element, 64>(a, rows, stream);
  if (a.layout.head_dim <= 128) return launch_of<Element, 128>(a, rows, stream);
  if (a.layout.head_dim <= kLargestHead) return launch_of<Element, kLargestHead>(a, rows, stream);
  return kInvalidValue;
}

}  // namespace

int attention_decode(const AttentionArguments& a, int32_t rows, void* stream) {
  if (a.n_items == 0) return 0;
  return a.layout.dtype == DType::f16 ? launch_of<__half>(a, rows, stream) : launch_of<float>(a, rows, stream);
}

int attention_merge(const MergeArguments& a, void* stream) {
  const int32_t n_items = a.items ? a.n_items : 1;
  if (n_items == 0 || a.max_tok == 0) return 0;
  if (a.head_dim > kLargestHead) return kInvalidValue;
  const dim3 grid(static_cast<unsigned>(n_items * a.max_tok), static_cast<unsigned>((a.n_heads + kMergeHeads - 1) / kMergeHeads));
  return launch(attention_merge_kernel, grid, dim3(kMergeThreads), 0, stream, a);
}

}  // namespace flexgen::cuda
