// SPDX-License-Identifier: Apache-2.0
#include "support/fake_cublaslt.h"

#include <algorithm>
#include <cstring>

#include "flexgen/tensor/half.h"

using flexgen::DType;
using flexgen::testing::FakeCublasLt;
using flexgen::testing::FakeLtCall;
using flexgen::testing::FakeLtMatrix;

namespace {

struct Product {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Handle {};

constexpr uint64_t kKernelWorkspace = 4096;  // what the one kernel of this library wants, if it may

FakeCublasLt& fake() {
  static FakeCublasLt state;
  return state;
}

// the library's opaque types are structures that it keeps to itself
template <typename T, typename Opaque>
T& of(Opaque* p) {
  return *reinterpret_cast<T*>(p);
}
template <typename T, typename Opaque>
cublasStatus_t make(Opaque** to, const T& value) {
  *to = reinterpret_cast<Opaque*>(new T(value));
  ++fake().alive;
  return CUBLAS_STATUS_SUCCESS;
}
template <typename T, typename Opaque>
cublasStatus_t end(Opaque* p) {
  delete reinterpret_cast<T*>(p);
  --fake().alive;
  return CUBLAS_STATUS_SUCCESS;
}
template <typename T>
cublasStatus_t set(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

DType dtype(cudaDataType t) { return t == CUDA_R_16F ? DType::f16 : t == CUDA_R_16BF ? DType::bf16 : DType::f32; }
uint64_t height(const FakeLtMatrix& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.rows : m.cols; }
uint64_t width(const FakeLtMatrix& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.cols : m.rows; }
double element(const void* data, const FakeLtMatrix& m, cublasOperation_t op, uint64_t row, uint64_t col) {
  if (op != CUBLAS_OP_N) std::swap(row, col);
  return static_cast<double>(load_element(dtype(m.type), static_cast<const std::byte*>(data), col * static_cast<uint64_t>(m.ld) + row));
}
bool has_bias(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_RELU_BIAS; }
bool has_relu(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_RELU_BIAS; }

bool fits(const FakeLtCall& c) {
  const auto lines = [](const FakeLtMatrix& m) { return m.ld >= static_cast<int64_t>(m.rows); };
  return c.compute == CUBLAS_COMPUTE_32F && c.a.type == c.b.type && c.d.type == CUDA_R_32F && lines(c.a) && lines(c.b) && lines(c.d) &&
         height(c.a, c.op_a) == c.d.rows && width(c.b, c.op_b) == c.d.cols && width(c.a, c.op_a) == height(c.b, c.op_b) &&
         has_bias(c.epilogue) == c.bias;
}
FakeLtCall call_of(const Product& p, const FakeLtMatrix& a, const FakeLtMatrix& b, const FakeLtMatrix& d) {
  return {p.compute, p.op_a, p.op_b, a, b, d, p.epilogue, p.bias != nullptr, 0, 0};
}

}  // namespace

#define FAKE __attribute__((visibility("default")))

extern "C" {

FAKE FakeCublasLt& fake_cublaslt() { return fake(); }

FAKE size_t cublasLtGetVersion() { return 130105; }
FAKE const char* cublasLtGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_INITIALIZED    ? "CUBLAS_STATUS_NOT_INITIALIZED"
         : status == CUBLAS_STATUS_EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
         : status == CUBLAS_STATUS_INVALID_VALUE    ? "CUBLAS_STATUS_INVALID_VALUE"
                                                    : "CUBLAS_STATUS_?";
}

FAKE cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return fake().create == CUBLAS_STATUS_SUCCESS ? make(handle, Handle{}) : fake().create;
}
FAKE cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return end<Handle>(handle); }

FAKE cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* to, cublasComputeType_t compute, cudaDataType_t scale) {
  return make(to, Product{compute, scale});
}
FAKE cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t p) { return end<Product>(p); }
FAKE cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t p, cublasLtMatmulDescAttributes_t which, const void* value, size_t bytes) {
  Product& product = of<Product>(p);
  switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(product.op_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(product.op_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(product.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(product.bias, value, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

FAKE cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* to, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld) {
  return make(to, FakeLtMatrix{type, rows, cols, ld});
}
FAKE cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m) { return end<FakeLtMatrix>(m); }

FAKE cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* to) { return make(to, Preference{}); }
FAKE cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return end<Preference>(p); }
FAKE cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t which, const void* value,
                                                         size_t bytes) {
  Preference& preference = of<Preference>(p);
  switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(preference.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(preference.alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(preference.alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(preference.alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(preference.alignment[3], value, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

FAKE cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                   cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                                   int wanted, cublasLtMatmulHeuristicResult_t* results, int* found) {
  FakeCublasLt& f = fake();
  const Preference& p = of<Preference>(preference);
  FakeLtCall call = call_of(of<Product>(product), of<FakeLtMatrix>(a), of<FakeLtMatrix>(b), of<FakeLtMatrix>(d));
  call.alignment = *std::min_element(p.alignment, p.alignment + 4);
  call.workspace = p.workspace;
  if (wanted < 1 || c != d || !fits(call)) return CUBLAS_STATUS_INVALID_VALUE;
  f.asked.push_back(call);
  if (f.heuristic != CUBLAS_STATUS_SUCCESS) return f.heuristic;
  *found = f.no_kernel ? 0 : 1;
  if (f.no_kernel) return CUBLAS_STATUS_SUCCESS;
  results[0].algo.data[0] = call.alignment;
  results[0].workspaceSize = results[0].algo.data[1] = std::min(call.workspace, kKernelWorkspace);
  return CUBLAS_STATUS_SUCCESS;
}

FAKE cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                                   const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout,
                                   void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                                   size_t workspace_bytes, cudaStream_t stream) {
  FakeCublasLt& f = fake();
  const Product& p = of<Product>(product);
  FakeLtCall call = call_of(p, of<FakeLtMatrix>(a_layout), of<FakeLtMatrix>(b_layout), of<FakeLtMatrix>(d_layout));
  call.alignment = static_cast<uint32_t>(algo->data[0]), call.workspace = workspace_bytes, call.beta = *static_cast<const float*>(beta);
  const auto aligned = [&](const void* operand) { return reinterpret_cast<uintptr_t>(operand) % call.alignment == 0; };
  if (!fits(call) || c != d || c_layout != d_layout || *static_cast<const float*>(alpha) != 1 || p.scale != CUDA_R_32F || !aligned(a) ||
      !aligned(b) || !aligned(d) || workspace_bytes < algo->data[1] || reinterpret_cast<uintptr_t>(workspace) % 256 != 0)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (f.matmul != CUBLAS_STATUS_SUCCESS) return f.matmul;
  f.done.push_back(call);
  f.give(stream, [=, bias = static_cast<const float*>(p.bias)] {
    std::memset(workspace, 0xFF, workspace_bytes);
    const uint64_t depth = width(call.a, call.op_a);
    for (uint64_t col = 0; col < call.d.cols; ++col)
      for (uint64_t row = 0; row < call.d.rows; ++row) {
        float& y = static_cast<float*>(d)[col * static_cast<uint64_t>(call.d.ld) + row];
        double sum = call.beta != 0 ? static_cast<double>(call.beta) * static_cast<double>(y) : 0;
        for (uint64_t k = 0; k < depth; ++k) sum += element(a, call.a, call.op_a, row, k) * element(b, call.b, call.op_b, k, col);
        if (bias) sum += static_cast<double>(bias[row]);
        y = static_cast<float>(has_relu(call.epilogue) ? std::max(sum, 0.0) : sum);
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
