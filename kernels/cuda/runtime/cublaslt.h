// SPDX-License-Identifier: Apache-2.0
// cuBLASLt where the machine has it: opened at run time and never linked, so that a program runs where it is absent. For --gemm cublaslt
// (api/gemm.h), and our own matrix products are measured beside it (bench/gpu).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "flexgen/tensor/dtype.h"

namespace flexgen::cuda {

// y (+)= act(x W^T + bias) with sums in f32; every address is the device's, 16-byte aligned
struct LtProduct {
  const void* x = nullptr;  // [T, K] in the weights' type
  const void* w = nullptr;  // [N, K], contiguous
  float* y = nullptr;       // [T, N]
  int64_t x_stride = 0;     // elements between tokens
  int64_t y_stride = 0;
  int64_t tokens = 0, rows = 0, cols = 0;
  DType weights = DType::f16;
  const float* bias = nullptr;  // [N], or null
  bool relu = false;
  bool accumulate = false;      // adds to y; not with relu, which the library would apply to the sum
};

// thread: any. All calls are for the device that was current in start().
class CublasLt {
 public:
  static constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  static constexpr size_t kWorkspace = size_t{32} << 20;  // bytes that its kernels like to have on sm_90; less serves
  static constexpr int kNotSupported = 15;                // of multiply(): it has no kernel for that product, and the stream got nothing

  // The first of these libraries that can be opened and has the functions; nullptr where there is none, and why_not says so in one line
  static std::unique_ptr<CublasLt> open(std::string& why_not, std::span<const char* const> names = kNames);
  ~CublasLt();

  // As "13.0.2"
  std::string version() const;

  // Takes what the library wants for itself, memory of the device included, unless it has: 0 or a status. Whoever counts the device's free
  // memory does so after it. The first multiply() starts what was not.
  int start();
  // Gives the product to the stream, by the kernel that the library's heuristics name first, which are asked once for each shape. Returns
  // 0 or a status of the library, named by error().
  int multiply(const LtProduct&, std::span<std::byte> workspace, void* stream);
  std::string error(int status) const;

 private:
  struct Library;
  explicit CublasLt(std::unique_ptr<Library>);

  std::unique_ptr<Library> library_;
};

}  // namespace flexgen::cuda
