// SPDX-License-Identifier: Apache-2.0
// The tiles that are compiled, by name, and the switch from a choice to its kernel. Each tile is compared with its row of the table.
#pragma once

#include "kernels/cuda/api/linear_kernels.h"
#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/gemm_wgmma.cuh"

namespace flexgen::cuda {

struct Gemm128x256 : GemmTile<128, 256, 32, 64, 64, 3> {};
struct Gemm128x128 : GemmTile<128, 128, 32, 64, 64, 3> {};
struct Gemm64x64 : GemmTile<64, 64, 64, 32, 32, 4> {};
struct Gemm32x64 : GemmTile<32, 64, 64, 32, 16, 4> {};
struct Gemm16x64 : GemmTile<16, 64, 64, 16, 16, 4> {};
struct Gemm16x32 : GemmTile<16, 32, 64, 16, 16, 6> {};
struct Held128x128 : GemmTile<128, 128, 32, 64, 32, 2, Staging::registers> {};
struct Held64x64 : GemmTile<64, 64, 32, 32, 32, 2, Staging::registers> {};
struct Held16x64 : GemmTile<16, 64, 64, 16, 16, 2, Staging::registers> {};
struct Wgmma128x256 : WgmmaTile<128, 256, 4> {};

inline constexpr int kNoSuchKernel = 98;  // cudaErrorInvalidDeviceFunction: a choice of another card or type

template <class T, class Tile, LinearKernel kKernel>
int launch_tile(const LinearChoice& choice, const GemmArguments& arguments, Stream stream, void (*kernel)(GemmArguments) = gemm<T, Tile>) {
  constexpr const LinearKernelRow& row = kLinearKernels[static_cast<size_t>(kKernel)];
  static_assert(row.tokens == Tile::kTokens && row.rows == Tile::kRows && row.depth == Tile::kDepth && row.stages == Tile::kStages &&
                row.threads == Tile::kThreads && row.shared_bytes == Tile::kSharedBytes);
  return launch(kernel, dim3(choice.grid_x, 1, choice.grid_z), dim3(Tile::kThreads), Tile::kSharedBytes, stream, arguments);
}

// The tiles of sm_80 and later
template <class T>
int launch_async_tile(const LinearChoice& choice, const GemmArguments& a, Stream stream) {
  switch (choice.kernel) {
    case LinearKernel::wgmma_128x256:
      return launch_tile<T, Wgmma128x256, LinearKernel::wgmma_128x256>(choice, a, stream, gemm_wgmma<T, Wgmma128x256>);
    case LinearKernel::gemm_128x256: return launch_tile<T, Gemm128x256, LinearKernel::gemm_128x256>(choice, a, stream);
    case LinearKernel::gemm_128x128: return launch_tile<T, Gemm128x128, LinearKernel::gemm_128x128>(choice, a, stream);
    case LinearKernel::gemm_64x64: return launch_tile<T, Gemm64x64, LinearKernel::gemm_64x64>(choice, a, stream);
    case LinearKernel::gemm_32x64: return launch_tile<T, Gemm32x64, LinearKernel::gemm_32x64>(choice, a, stream);
    case LinearKernel::gemm_16x64: return launch_tile<T, Gemm16x64, LinearKernel::gemm_16x64>(choice, a, stream);
    case LinearKernel::gemm_16x32: return launch_tile<T, Gemm16x32, LinearKernel::gemm_16x32>(choice, a, stream);
    default: return kNoSuchKernel;
  }
}

}  // namespace flexgen::cuda
