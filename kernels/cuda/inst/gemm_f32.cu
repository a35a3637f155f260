// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/src/gemm_f32.cuh"

#include "kernels/cuda/inst/linear_tiles.h"

namespace flexgen::cuda {

struct F32One : F32Tile<1, 4, 1, 8, 4> {};
struct F32Four : F32Tile<4, 4, 1, 8, 1> {};
struct F32Many : F32Tile<8, 4, 4, 4, 1> {};

namespace {

template <class W, class Tile, LinearKernel kKernel>
int launch_f32_tile(const LinearChoice& choice, const GemmF32Arguments& a, Stream stream) {
  constexpr const LinearKernelRow& row = kLinearKernels[static_cast<size_t>(kKernel)];
  static_assert(row.tokens == Tile::kBlockTokens && row.rows == Tile::kBlockRows && row.threads == Tile::kThreads);
  return launch(gemm_f32<W, Tile>, dim3(choice.grid_x, choice.grid_y), dim3(Tile::kThreads), 0, stream, a);
}

template <class W>
int launch_f32_of(const LinearChoice& choice, const GemmF32Arguments& a, Stream stream) {
  switch (choice.kernel) {
    case LinearKernel::f32_1: return launch_f32_tile<W, F32One, LinearKernel::f32_1>(choice, a, stream);
    case LinearKernel::f32_4: return launch_f32_tile<W, F32Four, LinearKernel::f32_4>(choice, a, stream);
    case LinearKernel::f32_32: return launch_f32_tile<W, F32Many, LinearKernel::f32_32>(choice, a, stream);
    default: return kNoSuchKernel;
  }
}

}  // namespace

int launch_gemm_f32(const LinearChoice& choice, DType weights, const GemmF32Arguments& a, void* stream) {
  switch (weights) {
    case DType::f32: return launch_f32_of<float>(choice, a, stream);
    case DType::f16: return launch_f32_of<__half>(choice, a, stream);
    case DType::bf16: return launch_f32_of<__nv_bfloat16>(choice, a, stream);
  }
  return kNoSuchKernel;
}

}  // namespace flexgen::cuda
