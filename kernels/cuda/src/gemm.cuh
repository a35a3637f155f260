// SPDX-License-Identifier: Apache-2.0
// Tensor-core GEMM of the linear layer: y[T, N] (+)= act(x[T, K] W[N, K]^T + bias), x and W in f16 or bf16, sums in f32.
//
// Grid: (tiles, 1, splits); tiles are numbered in bands of kTokenTileBand token tiles so that the blocks in flight share rows of both
// operands in L2. A block owns Tile::kTokens x Tile::kRows elements of y, a warp kWarpTokens x kWarpRows of them as m16n8 fragments
// (PTX ISA 9.7.14.5.8, m16n8k16): lane l holds rows l/4 and l/4 + 8, columns 2 (l%4) and 2 (l%4) + 1.
// Shared memory: kStages times (tokens + rows) lines of kDepth elements, 16-byte chunks swizzled so that ldmatrix has no bank conflicts.
//
// Order of summation: every element of y is one chain of mma over k = 0, 16, 32, ... whatever the tile, the batch and the row blocks.
// A split cuts that chain: each writes its sums to `partial`, and add_partials (split_k.cuh) adds them in order.
#pragma once

#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/src/linear_rows.cuh"

namespace flexgen::cuda {

enum class Staging {
  copy_async,  // cp.async, kStages - 1 tiles in flight (sm_80 and later)
  registers,   // the next tile waits in registers while this one is multiplied; two stages (sm_75)
};

template <int Tokens, int Rows, int Depth, int WarpTokens, int WarpRows, int Stages, Staging S = Staging::copy_async>
struct GemmTile {
  static constexpr int kTokens = Tokens, kRows = Rows, kDepth = Depth;      // of a block; depth: elements of K a step
  static constexpr int kWarpTokens = WarpTokens, kWarpRows = WarpRows;
  static constexpr int kStages = Stages;
  static constexpr Staging kStaging = S;
  static constexpr int kWarpsAcross = Rows / WarpRows;                      // warps along the rows of W
  static constexpr int kThreads = Tokens / WarpTokens * kWarpsAcross * 32;
  static constexpr int kChunks = Depth / 8;                                 // 16-byte chunks of a line
  static constexpr int kLinesAtOnce = kThreads / kChunks;                   // lines that the block copies with one instruction a thread
  static constexpr int kTokenCopies = Tokens / kLinesAtOnce, kRowCopies = Rows / kLinesAtOnce;
  static constexpr int kStageElements = (Tokens + Rows) * Depth;
  static constexpr int kSharedBytes = Stages * kStageElements * 2;
  static constexpr int kSumStride = WarpRows + 8;                           // floats, of the epilogue's lines
  // fragments of a warp
  static constexpr int kTokenFragments = WarpTokens / 16, kRowFragments = WarpRows / 8;

  static_assert(Depth == 32 || Depth == 64, "the swizzle is written for lines of 64 and 128 bytes");
  static_assert(Tokens % WarpTokens == 0 && Rows % WarpRows == 0 && WarpTokens % 16 == 0 && WarpRows % 16 == 0);
  static_assert(kThreads % kChunks == 0 && Tokens % kLinesAtOnce == 0 && Rows % kLinesAtOnce == 0, "every thread copies as much as the others");
  static_assert(S == Staging::copy_async ? Stages >= 2 : Stages == 2);
  static_assert((Rows + kThreads / 32 * 16 * kSumStride) * 4 <= kSharedBytes, "the epilogue's columns and sums lie where the stages were");
};

inline constexpr int kTokenTileBand = 8;

// The lines that one thread copies, always the same 16-byte chunk of each. Behind the last token come zeros; behind the last weight row
// that row again, whose sums are not stored.
template <class T, class Tile>
struct Lines {
  const T* x;                    // the first of them
  const T* w[Tile::kRowCopies];  // each may lie in a row block of its own
  int line, chunk;
  int tokens_left;               // from that first line on

  FG_DEVICE Lines(const GemmArguments& a, int first_token, int first_row)
      : line(static_cast<int>(threadIdx.x) / Tile::kChunks), chunk(static_cast<int>(threadIdx.x) % Tile::kChunks) {
    x = static_cast<const T*>(a.x) + (first_token + line) * a.x_stride + chunk * 8;
    tokens_left = a.tokens - first_token - line;
    FG_UNROLL for (int i = 0; i < Tile::kRowCopies; ++i) {
      const int row = first_row + line + i * Tile::kLinesAtOnce;
      w[i] = weight_row<T>(a.w, row < a.w.rows ? row : a.w.rows - 1, a.cols) + chunk * 8;
    }
  }
};

// Starts copying columns [k, k + kDepth) of the tile into a stage; columns from `end` on become zeros
template <class T, class Tile>
FG_DEVICE void copy_stage(const GemmArguments& a, const Lines<T, Tile>& from, T* stage, int k, int end) {
  const bool inside = k + from.chunk * 8 < end;
  FG_UNROLL for (int i = 0; i < Tile::kTokenCopies; ++i) {
    const bool valid = inside && i * Tile::kLinesAtOnce < from.tokens_left;
    const T* const x = from.x + i * Tile::kLinesAtOnce * a.x_stride + k;
    copy_async_16(stage + swizzled<Tile::kDepth>(from.line + i * Tile::kLinesAtOnce, from.chunk), valid ? x : a.x, valid);
  }
  T* const rows = stage + Tile::kTokens * Tile::kDepth;
  FG_UNROLL for (int i = 0; i < Tile::kRowCopies; ++i)
    copy_async_16(rows + swizzled<Tile::kDepth>(from.line + i * Tile::kLinesAtOnce, from.chunk), inside ? from.w[i] + k : from.w[i], inside);
}

// The same through registers: load while the tile before is multiplied, then put
template <class T, class Tile>
struct HeldTile {
  uint4 x[Tile::kTokenCopies], w[Tile::kRowCopies];

  FG_DEVICE void load(const GemmArguments& a, const Lines<T, Tile>& from, int k, int end) {
    const bool inside = k + from.chunk * 8 < end;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    FG_UNROLL for (int i = 0; i < Tile::kTokenCopies; ++i)
      x[i] = inside && i * Tile::kLinesAtOnce < from.tokens_left
                 ? *reinterpret_cast<const uint4*>(from.x + i * Tile::kLinesAtOnce * a.x_stride + k) : zero;
    FG_UNROLL for (int i = 0; i < Tile::kRowCopies; ++i) w[i] = inside ? *reinterpret_cast<const uint4*>(from.w[i] + k) : zero;
  }
  FG_DEVICE void put(const Lines<T, Tile>& from, T* stage) const {
    T* const rows = stage + Tile::kTokens * Tile::kDepth;
    FG_UNROLL for (int i = 0; i < Tile::kTokenCopies; ++i)
      *reinterpret_cast<uint4*>(stage + swizzled<Tile::kDepth>(from.line + i * Tile::kLinesAtOnce, from.chunk)) = x[i];
    FG_UNROLL for (int i = 0; i < Tile::kRowCopies; ++i)
      *reinterpret_cast<uint4*>(rows + swizzled<Tile::kDepth>(from.line + i * Tile::kLinesAtOnce, from.chunk)) = w[i];
  }
};

// One k16 step of a warp's operands: x as A fragments (16 tokens each), W as B fragments (two of 8 rows each)
template <class Tile>
struct Fragments {
  uint32_t x[Tile::kTokenFragments][4];
  uint32_t w[Tile::kRowFragments / 2][4];
};

// ldmatrix.x4 takes four 8x8 matrices whose line addresses come from lanes 0-7, 8-15, 16-23, 24-31. A wants (tokens 0-7, k 0-7),
// (8-15, 0-7), (0-7, 8-15), (8-15, 8-15): lane l points to token l%16, chunk l/16. B wants (rows 0-7, k 0-7), (0-7, 8-15), (8-15, 0-7),
// (8-15, 8-15): row l%8 + 8 (l/16), chunk l/8 % 2.
template <class T, class Tile>
FG_DEVICE void load_fragments(Fragments<Tile>& f, const T* stage, int step, int warp_token, int warp_row, int lane) {
  const T* const rows = stage + Tile::kTokens * Tile::kDepth;
  FG_UNROLL for (int i = 0; i < Tile::kTokenFragments; ++i)
    load_matrix_x4(f.x[i], stage + swizzled<Tile::kDepth>(warp_token + i * 16 + (lane & 15), step * 2 + (lane >> 4)));
  FG_UNROLL for (int j = 0; j < Tile::kRowFragments / 2; ++j)
    load_matrix_x4(f.w[j], rows + swizzled<Tile::kDepth>(warp_row + j * 16 + (lane & 7) + (lane >> 4) * 8, step * 2 + ((lane >> 3) & 1)));
}

template <class T, class Tile>
FG_DEVICE void multiply(float (&sum)[Tile::kTokenFragments][Tile::kRowFragments][4], const Fragments<Tile>& f) {
  FG_UNROLL for (int i = 0; i < Tile::kTokenFragments; ++i)
    FG_UNROLL for (int j = 0; j < Tile::kRowFragments; ++j)
      mma_m16n8k16<T>(sum[i][j], f.x[i], f.w[j / 2][j % 2 * 2], f.w[j / 2][j % 2 * 2 + 1]);
}

// cp.async ring. One barrier a step: when it opens, the tile of the next step has landed for everybody, and everybody has read the
// fragments of this one, so its predecessor's stage may be refilled. Fragments are read one k16 step ahead of their use.
template <class T, class Tile>
FG_DEVICE void multiply_tiles_async(float (&sum)[Tile::kTokenFragments][Tile::kRowFragments][4], const GemmArguments& a, const Lines<T, Tile>& lines,
                                    T* shared, int begin, int end, int warp_token, int warp_row, int lane) {
  constexpr int kSteps = Tile::kDepth / 16;
  const int tiles = (end - begin + Tile::kDepth - 1) / Tile::kDepth;
  const auto stage = [&](int tile) { return shared + tile % Tile::kStages * Tile::kStageElements; };
  FG_UNROLL for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (i < tiles) copy_stage<T, Tile>(a, lines, stage(i), begin + i * Tile::kDepth, end);
    commit_copies();
  }
  wait_copies<Tile::kStages - 2>();
  __syncthreads();
  Fragments<Tile> fragments[2];
  if (tiles > 0) load_fragments<T, Tile>(fragments[0], stage(0), 0, warp_token, warp_row, lane);
  for (int tile = 0; tile < tiles; ++tile) {
    FG_UNROLL for (int step = 0; step < kSteps; ++step) {
      if (step == kSteps - 1) {
        wait_copies<Tile::kStages - 2>();
        __syncthreads();
        if (tile + 1 < tiles) load_fragments<T, Tile>(fragments[(step + 1) % 2], stage(tile + 1), 0, warp_token, warp_row, lane);
      } else {
        load_fragments<T, Tile>(fragments[(step + 1) % 2], stage(tile), step + 1, warp_token, warp_row, lane);
      }
      if (step == 0) {
        const int next = tile + Tile::kStages - 1;
        if (next < tiles) copy_stage<T, Tile>(a, lines, stage(next), begin + next * Tile::kDepth, end);
        commit_copies();  // also when empty: the count of groups tells which tile has landed
      }
      multiply<T, Tile>(sum, fragments[step % 2]);
    }
  }
}

template <class T, class Tile>
FG_DEVICE void multiply_tiles_held(float (&sum)[Tile::kTokenFragments][Tile::kRowFragments][4], const GemmArguments& a, const Lines<T, Tile>& lines,
                                   T* shared, int begin, int end, int warp_token, int warp_row, int lane) {
  const int tiles = (end - begin + Tile::kDepth - 1) / Tile::kDepth;
  const auto stage = [&](int tile) { return shared + tile % 2 * Tile::kStageElements; };
  HeldTile<T, Tile> held;
  if (tiles > 0) {
    held.load(a, lines, begin, end);
    held.put(lines, stage(0));
  }
  __syncthreads();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) held.load(a, lines, begin + (tile + 1) * Tile::kDepth, end);
    FG_UNROLL for (int step = 0; step < Tile::kDepth / 16; ++step) {
      Fragments<Tile> f;
      load_fragments<T, Tile>(f, stage(tile), step, warp_token, warp_row, lane);
      multiply<T, Tile>(sum, f);
    }
    if (tile + 1 < tiles) held.put(lines, stage(tile + 1));  // read last one step before, in front of the barrier below
    __syncthreads();
  }
}

// The sums go through shared memory, 16 tokens of a warp at a time: fragments hold pairs of columns, stores want 16 bytes and whole lines.
// Rows of kSumStride floats: the 16 lanes of half a float2 store (4 tokens, 4 pairs) fall on 32 different banks.
template <class Tile>
FG_DEVICE void store_tile(const float (&sum)[Tile::kTokenFragments][Tile::kRowFragments][4], const GemmArguments& a, void* shared, int first_token,
                          int first_row, int split, int warp_token, int warp_row) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int* const columns = static_cast<int*>(shared);  // of y; -1 behind the last row
  float* const lines = static_cast<float*>(shared) + Tile::kRows + warp * 16 * Tile::kSumStride;
  __syncthreads();  // the stages are read, their memory is free
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows; i += Tile::kThreads)
    columns[i] = first_row + i < a.w.rows ? (a.partial != nullptr ? first_row + i : output_column(a.w, first_row + i)) : -1;
  __syncthreads();
  LinearOutput out = a.out;
  if (a.partial != nullptr) {
    const int64_t tokens = a.tokens, rows = a.w.rows;
    out = {a.partial + split * tokens * rows, rows, nullptr, Activation::none, false};
  }
  FG_UNROLL for (int i = 0; i < Tile::kTokenFragments; ++i) {
    __syncwarp();  // the 16 tokens before are read
    FG_UNROLL for (int j = 0; j < Tile::kRowFragments; ++j) {
      float* const to = lines + lane / 4 * Tile::kSumStride + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(sum[i][j][0], sum[i][j][1]);
      *reinterpret_cast<float2*>(to + 8 * Tile::kSumStride) = make_float2(sum[i][j][2], sum[i][j][3]);
    }
    __syncwarp();
    constexpr int kFours = Tile::kWarpRows / 4;
    const int token = first_token + warp_token + i * 16;
    for (int e = lane; e < 16 * kFours && token + e / kFours < a.tokens; e += 32)
      store_4(out, token + e / kFours, columns + warp_row + e % kFours * 4,
              *reinterpret_cast<const float4*>(lines + e / kFours * Tile::kSumStride + e % kFours * 4));
  }
}

// What a block computes: its tile of y, over columns [begin, end) of K
struct BlockTile {
  int first_token, first_row, split, begin, end;
};
template <class Tile>
FG_DEVICE BlockTile block_tile(const GemmArguments& a) {
  const TileIndex at = tile_of<kTokenTileBand>(static_cast<int>(blockIdx.x), (a.tokens + Tile::kTokens - 1) / Tile::kTokens,
                                               (a.w.rows + Tile::kRows - 1) / Tile::kRows);
  const int split = static_cast<int>(blockIdx.z), begin = split * a.split_cols;
  return {at.row * Tile::kTokens, at.column * Tile::kRows, split, begin, a.cols - begin < a.split_cols ? a.cols : begin + a.split_cols};
}

// The body of a kernel where it is compiled for a card that never launches it. One that does must not get away with garbage.
FG_DEVICE void not_built() {
#ifdef __CUDACC__
  __trap();
#endif
}

template <class T, class Tile>
FG_KERNEL(Tile::kThreads) gemm(GemmArguments a) {
#if defined(__CUDA_ARCH__)
  constexpr bool kBuilt = (Tile::kStaging == Staging::copy_async) == (__CUDA_ARCH__ >= 800);
#else
  constexpr bool kBuilt = true;
#endif
  if constexpr (kBuilt) {
    FG_DYNAMIC_SHARED(T, shared);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warp_token = warp / Tile::kWarpsAcross * Tile::kWarpTokens, warp_row = warp % Tile::kWarpsAcross * Tile::kWarpRows;
    const BlockTile at = block_tile<Tile>(a);
    float sum[Tile::kTokenFragments][Tile::kRowFragments][4] = {};
    const Lines<T, Tile> lines(a, at.first_token, at.first_row);
    if constexpr (Tile::kStaging == Staging::copy_async)
      multiply_tiles_async<T, Tile>(sum, a, lines, shared, at.begin, at.end, warp_token, warp_row, lane);
    else
      multiply_tiles_held<T, Tile>(sum, a, lines, shared, at.begin, at.end, warp_token, warp_row, lane);
    store_tile<Tile>(sum, a, shared, at.first_token, at.first_row, at.split, warp_token, warp_row);
  } else {
    not_built();
  }
}

}  // namespace flexgen::cuda
