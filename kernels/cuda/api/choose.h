// SPDX-License-Identifier: Apache-2.0
// Which kernel computes a linear layer, and how it is cut: a pure function of the card, the shape and the arithmetic asked for, read
// from tables. Nothing here was measured on a card yet: what is marked [E] are estimates from datasheets and published kernels.
//
// Three families (kernels/cuda/src):
//   gemm  tensor cores, f16 and bf16 (from sm_80; sm_75 has only f16). x is rounded to the weights' type. An element of y is one chain
//         of mma over K, unless K is split or wgmma computes it, which only Arithmetic::fast lets happen.
//   gemv  few tokens, f16 and bf16: CUDA cores, x in f32. Sums run in another order than gemm's: only Arithmetic::fast takes it.
//   f32   everything else, bit by bit as the CPU backends: f32 weights, Arithmetic::f32, bf16 on sm_75, K that is no multiple of 8.
// A format that is not a DType yet gets rows of its own in kLinearKernels, and a bit in `weights`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexgen/tensor/dtype.h"

namespace flexgen::cuda {

struct Card {
  int arch = 0;             // compute capability: 75, 80, 86, 89, 90
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // most shared memory that a block may ask for
};

enum class Arithmetic {
  fast,       // whatever is fastest for the shape
  one_order,  // the result of a token depends neither on the batch, nor on the card's size, nor on how the rows are cut (--deterministic)
  f32,        // the contract of ops/ops.h: the bits of the CPU backends, for any weights
};

struct LinearShape {
  int64_t tokens = 0;       // T, at least 1
  int64_t rows = 0;         // of W that the launch covers, at least 1
  int64_t cols = 0;         // K
  DType weights = DType::f32;
  bool aligned_x = true;    // the f32 lines of x are 16-byte aligned
};

enum class LinearFamily { gemm, gemv, f32 };

// In the order of kLinearKernels
enum class LinearKernel : uint8_t {
  wgmma_128x256, gemm_128x256, gemm_128x128, gemm_64x64, gemm_32x64, gemm_16x64, gemm_16x32,
  held_128x128, held_64x64, held_16x64,
  gemv_1, gemv_2, gemv_4, gemv_8,
  f32_1, f32_4, f32_32,
};
inline constexpr size_t kLinearKernelCount = 17;

namespace detail {
inline constexpr uint32_t kSm75 = 1, kSm80 = 2, kSm86 = 4, kSm89 = 8, kSm90 = 16;  // and later
inline constexpr uint32_t kHopper = 32;                                                    // 9.0 itself: sm_90a
inline constexpr uint32_t kWithAsync = kSm80 | kSm86 | kSm89 | kSm90, kAny = kSm75 | kWithAsync, kLarge = kSm80 | kSm90;
constexpr uint32_t card_bit(int arch) {
  return arch == 90 ? kSm90 | kHopper : arch > 90 ? kSm90 : arch >= 89 ? kSm89 : arch >= 86 ? kSm86 : arch >= 80 ? kSm80 : arch >= 75 ? kSm75 : 0;
}
constexpr uint32_t weight_bit(DType t) { return 1u << static_cast<uint32_t>(t); }
inline constexpr uint32_t kF16 = weight_bit(DType::f16), k16 = kF16 | weight_bit(DType::bf16), kAll = k16 | weight_bit(DType::f32);
}  // namespace detail

struct LinearKernelRow {
  LinearKernel kernel;
  const char* name;
  LinearFamily family;
  int tokens, rows;         // of a block: its tile of y. gemv: with one warp along K
  int depth, stages;        // gemm: elements of K a step, and steps that lie in shared memory. A split is a multiple of the depth
  int threads;
  size_t shared_bytes;      // dynamic
  uint32_t cards;           // which have it, by detail::card_bit
  uint32_t weights;         // which it reads, by detail::weight_bit
  int most_tokens;          // largest T for which it is considered; 0: any
  double rate;              // [E] gemm: share of the card's mma rate that a full grid of it reaches
  bool mma_chain;           // gemm: sums in the one order of Arithmetic::one_order
};

// Tiles of 128 x 256 keep one block a multiprocessor busy, those of 128 x 128 two, also in the 99 KiB of sm_86 and sm_89. gemm_16x32 is
// for decoding in one order: more blocks where K may not be split.
inline constexpr LinearKernelRow kLinearKernels[] = {
    {LinearKernel::wgmma_128x256, "wgmma_128x256", LinearFamily::gemm, 128, 256, 64, 4, 256, 196608, detail::kHopper, detail::k16, 0, 0.95, false},
    {LinearKernel::gemm_128x256, "gemm_128x256", LinearFamily::gemm, 128, 256, 32, 3, 256, 73728, detail::kLarge, detail::k16, 0, 0.85, true},
    {LinearKernel::gemm_128x128, "gemm_128x128", LinearFamily::gemm, 128, 128, 32, 3, 128, 49152, detail::kWithAsync, detail::k16, 0, 0.8, true},
    {LinearKernel::gemm_64x64, "gemm_64x64", LinearFamily::gemm, 64, 64, 64, 4, 128, 65536, detail::kWithAsync, detail::k16, 0, 0.55, true},
    {LinearKernel::gemm_32x64, "gemm_32x64", LinearFamily::gemm, 32, 64, 64, 4, 128, 49152, detail::kWithAsync, detail::k16, 32, 0.4, true},
    {LinearKernel::gemm_16x64, "gemm_16x64", LinearFamily::gemm, 16, 64, 64, 4, 128, 40960, detail::kWithAsync, detail::k16, 16, 0.25, true},
    {LinearKernel::gemm_16x32, "gemm_16x32", LinearFamily::gemm, 16, 32, 64, 6, 64, 36864, detail::kWithAsync, detail::k16, 16, 0.2, true},
    {LinearKernel::held_128x128, "held_128x128", LinearFamily::gemm, 128, 128, 32, 2, 256, 32768, detail::kSm75, detail::kF16, 0, 0.75, true},
    {LinearKernel::held_64x64, "held_64x64", LinearFamily::gemm, 64, 64, 32, 2, 128, 16384, detail::kSm75, detail::kF16, 0, 0.5, true},
    {LinearKernel::held_16x64, "held_16x64", LinearFamily::gemm, 16, 64, 64, 2, 128, 20480, detail::kSm75, detail::kF16, 16, 0.25, true},
    {LinearKernel::gemv_1, "gemv_1", LinearFamily::gemv, 1, 16, 0, 0, 128, 0, detail::kAny, detail::k16, 1, 0, false},
    {LinearKernel::gemv_2, "gemv_2", LinearFamily::gemv, 2, 16, 0, 0, 128, 0, detail::kAny, detail::k16, 2, 0, false},
    {LinearKernel::gemv_4, "gemv_4", LinearFamily::gemv, 4, 16, 0, 0, 128, 0, detail::kAny, detail::k16, 4, 0, false},
    {LinearKernel::gemv_8, "gemv_8", LinearFamily::gemv, 8, 16, 0, 0, 128, 0, detail::kAny, detail::k16, 8, 0, false},
    {LinearKernel::f32_1, "f32_1", LinearFamily::f32, 1, 32, 0, 0, 128, 0, detail::kAny, detail::kAll, 1, 0, false},
    {LinearKernel::f32_4, "f32_4", LinearFamily::f32, 4, 32, 0, 0, 128, 0, detail::kAny, detail::kAll, 4, 0, false},
    {LinearKernel::f32_32, "f32_32", LinearFamily::f32, 32, 16, 0, 0, 256, 0, detail::kAny, detail::kAll, 0, 0, false},
};

// What a multiprocessor does in a clock, for the estimate that picks tiles and splits [E: datasheets; sm_90 by mma.sync]
struct CardRow {
  int arch;                // and later, up to the next row
  double products;         // multiply-adds of mma, f16
  double bytes;            // its share of the memory's speed
  int gemv_tokens;         // most tokens for which CUDA cores keep up with the memory
};
inline constexpr CardRow kCards[] = {
    {75, 512, 5.0, 8}, {80, 1024, 10.2, 4}, {86, 512, 6.7, 8}, {89, 512, 3.2, 8}, {90, 1270, 20.8, 4},
};

struct LinearChoice {
  LinearKernel kernel = LinearKernel::f32_32;
  uint32_t grid_x = 0, grid_y = 1, grid_z = 1;  // z: splits of K
  int32_t split_cols = 0;                       // K of one split
  int32_t warps_along_k = 1;                    // gemv
  bool rounded_x = false;                       // x is read in the weights' type
  size_t partial_bytes = 0;                     // of the splits' sums; 0 without splits

  uint32_t splits() const { return grid_z; }
};

// Elements of a token of rounded x
constexpr int64_t padded_cols(int64_t cols) { return (cols + 7) / 8 * 8; }

inline constexpr size_t kMostPartialBytes = size_t{32} << 20;  // of the splits' sums; bounds the workspace

const LinearKernelRow& linear_kernel(LinearKernel kernel);
bool can_run(const Card& card, const LinearKernelRow& row, DType weights);
// How a kernel cuts a shape; pieces_of_k: splits of gemm (fewer where K has fewer steps), warps along K of gemv
LinearChoice cut(LinearKernel kernel, const LinearShape& shape, int pieces_of_k = 1);
LinearChoice choose(const Card& card, const LinearShape& shape, Arithmetic arithmetic);

}  // namespace flexgen::cuda
