// SPDX-License-Identifier: Apache-2.0
// A libcublasLt that multiplies on the CPU (fake_cublaslt.cc, a shared object of its own): for any transposes, types and leading
// dimensions, so that a wrong one gives wrong products or CUBLAS_STATUS_INVALID_VALUE. It keeps what it was asked for.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace flexgen::testing {

struct FakeLtMatrix {
  cudaDataType type;
  uint64_t rows, cols;  // stored, column by column
  int64_t ld;
};

struct FakeLtCall {
  cublasComputeType_t compute;
  cublasOperation_t op_a, op_b;
  FakeLtMatrix a, b, d;
  cublasLtEpilogue_t epilogue;
  bool bias;
  uint32_t alignment;  // least of the operands that was promised
  uint64_t workspace;  // bytes at most
  float beta = 0;      // of products alone
};

struct FakeCublasLt {
  // Gets work for a stream
  std::function<void(void* stream, std::function<void()>)> give;
  cublasStatus_t create = CUBLAS_STATUS_SUCCESS, heuristic = CUBLAS_STATUS_SUCCESS, matmul = CUBLAS_STATUS_SUCCESS;  // what they return
  bool no_kernel = false;               // the heuristic finds none, and says no more
  std::vector<FakeLtCall> asked, done;  // heuristics, products
  int64_t alive = 0;                    // handles, descriptions, layouts, preferences
};

// Exported as "fake_cublaslt"
using GetFakeCublasLt = FakeCublasLt& (*)();

}  // namespace flexgen::testing
