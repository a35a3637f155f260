// SPDX-License-Identifier: Apache-2.0
// gemv, and the small kernels around gemm: rounding of x, second pass over split sums.
#include "kernels/cuda/src/gemv.cuh"

#include "kernels/cuda/inst/linear_tiles.h"
#include "kernels/cuda/src/convert.cuh"
#include "kernels/cuda/src/split_k.cuh"

namespace flexgen::cuda {
namespace {

constexpr int64_t kMostBlocksY = 65535;

uint32_t blocks(int64_t n, int64_t of) { return static_cast<uint32_t>((n + of - 1) / of); }
uint32_t strided(int64_t tokens) { return static_cast<uint32_t>(tokens < kMostBlocksY ? tokens : kMostBlocksY); }

template <class T>
int launch_gemv_of(const LinearChoice& choice, const GemvArguments& a, Stream stream) {
  const dim3 grid(choice.grid_x);
  switch (choice.kernel) {
    case LinearKernel::gemv_1: return launch(gemv<T, 1>, grid, dim3(kGemvThreads), 0, stream, a);
    case LinearKernel::gemv_2: return launch(gemv<T, 2>, grid, dim3(kGemvThreads), 0, stream, a);
    case LinearKernel::gemv_4: return launch(gemv<T, 4>, grid, dim3(kGemvThreads), 0, stream, a);
    case LinearKernel::gemv_8: return launch(gemv<T, 8>, grid, dim3(kGemvThreads), 0, stream, a);
    default: return kNoSuchKernel;
  }
}

}  // namespace

int launch_gemv(const LinearChoice& choice, DType weights, const GemvArguments& a, void* stream) {
  return weights == DType::f16 ? launch_gemv_of<__half>(choice, a, stream) : launch_gemv_of<__nv_bfloat16>(choice, a, stream);
}

int launch_convert(DType to, const ConvertArguments& a, void* stream) {
  const dim3 grid(blocks(a.padded, 8 * kConvertThreads), strided(a.tokens));
  return to == DType::f16 ? launch(convert_rows<__half>, grid, dim3(kConvertThreads), 0, stream, a)
                          : launch(convert_rows<__nv_bfloat16>, grid, dim3(kConvertThreads), 0, stream, a);
}

int launch_add_partials(const AddPartialsArguments& a, void* stream) {
  return launch(add_partials<kAddThreads>, dim3(blocks(a.w.rows, kAddThreads), strided(a.tokens)), dim3(kAddThreads), 0, stream, a);
}

}  // namespace flexgen::cuda
