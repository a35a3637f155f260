// SPDX-License-Identifier: Apache-2.0
// linear of ops/ops.h on a card: y (+)= act(x W^T + bias) with device addresses throughout. Checks, chooses, launches; runs on the
// caller's stream, allocates nothing and never waits, so that it may be captured in a graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "flexgen/ops/device_backend.h"
#include "flexgen/ops/ops.h"
#include "kernels/cuda/api/choose.h"

namespace flexgen::cuda {

struct ForcedKernel {
  LinearKernel kernel;
  int pieces_of_k = 1;
};

class CublasLt;

struct LinearCall {
  LinearArgs args;                              // x, bias, y 4-byte aligned, row blocks 16-byte aligned; T, N, K below 2^31
  Arithmetic arithmetic = Arithmetic::fast;
  std::optional<ForcedKernel> forced = {};      // benchmarks and tests: this kernel, which must be one for the card, shape and weights
  std::span<std::byte> workspace = {};          // linear_workspace() bytes, 256-byte aligned, used until the kernels are done
  CublasLt* cublaslt = nullptr;                 // computes what it can of a fast product; null: our own kernels all
  ProductCounts* products = nullptr;            // or: counts by whom, where cublaslt has a share
  bool* x_ready = nullptr;                      // or: does x lie rounded in the workspace, from a call with the same x and type of weights?
};

// Launches on `stream` (a cudaStream_t of the card). Returns the CUDA error code of the first launch that failed, or 0. What the kernels
// themselves find wrong shows where the stream is waited for.
int linear(const Card& card, const LinearCall& call, void* stream);

// Bytes that linear needs at most for up to this many tokens and rows of a matrix with these columns
size_t linear_workspace(int64_t tokens, int64_t rows, int64_t cols, DType weights, Arithmetic arithmetic, bool cublaslt = false);

// x [T, K] -> [T, padded_cols(K)] in f16 or bf16, zeros from K on: what the tensor cores read. `to` is 16-byte aligned and has
// rounded_x_bytes.
int round_x(MatView<const float> x, DType to_type, void* to, void* stream);
constexpr size_t rounded_x_bytes(int64_t tokens, int64_t cols) { return static_cast<size_t>(tokens * padded_cols(cols)) * 2; }

}  // namespace flexgen::cuda
