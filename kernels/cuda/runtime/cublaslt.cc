// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/runtime/cublaslt.h"

#if __has_include(<cublasLt.h>)  // a toolkit may be installed without it

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "flexgen/base/error.h"

namespace flexgen::cuda {
namespace {

// The toolkit's header gives the types; the functions are the library's own
struct Functions {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusName) status_name;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;
};

cudaDataType_t data_type(DType t) { return t == DType::f16 ? CUDA_R_16F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

}  // namespace

struct CublasLt::Library {
  // The description of a product and the kernel for it. Every status is kept, so that the first failure is what multiply() returns.
  struct Plan {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulHeuristicResult_t kernel{};
  };
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, DType, cublasLtEpilogue_t, uint32_t, size_t>;
  static constexpr size_t kPlans = 4096;  // kept at most: batches are of any number of tokens

  void* so = nullptr;
  Functions call{};
  cublasLtHandle_t handle = nullptr;
  std::map<Shape, Plan> plans;
  std::mutex mutex;  // of handle and plans

  ~Library() {
    forget_plans();
    if (handle) call.destroy(handle);
    // the library stays open: what it has registered with the driver may outlive this
  }
  void forget_plans() {
    for (auto& [shape, p] : plans) {
      for (cublasLtMatrixLayout_t layout : {p.w, p.x, p.y})
        if (layout) call.layout_destroy(layout);
      if (p.product) call.desc_destroy(p.product);
    }
    plans.clear();
  }

  // "" or the function that is not there
  std::string find_functions() {
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(so, name));
      if (function == nullptr && missing.empty()) missing = name;
    };
    find(call.create, "cublasLtCreate"), find(call.destroy, "cublasLtDestroy");
    find(call.version, "cublasLtGetVersion"), find(call.status_name, "cublasLtGetStatusName");
    find(call.desc_create, "cublasLtMatmulDescCreate"), find(call.desc_destroy, "cublasLtMatmulDescDestroy");
    find(call.desc_set, "cublasLtMatmulDescSetAttribute");
    find(call.layout_create, "cublasLtMatrixLayoutCreate"), find(call.layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(call.preference_create, "cublasLtMatmulPreferenceCreate"), find(call.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(call.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(call.heuristic, "cublasLtMatmulAlgoGetHeuristic"), find(call.matmul, "cublasLtMatmul");
    return missing;
  }

  cublasStatus_t start() { return handle ? CUBLAS_STATUS_SUCCESS : call.create(&handle); }

  static cublasLtEpilogue_t epilogue(const LtProduct& a) {
    if (a.relu) return a.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    return a.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
  // What all operands are aligned to: bytes, a power of two. 256 is what the library expects unless it is told; it looks at the bias itself
  static uint32_t alignment(const LtProduct& a) {
    uintptr_t bits = 256;
    for (const void* p : {a.x, a.w, static_cast<const void*>(a.y), static_cast<const void*>(a.bias)}) bits |= reinterpret_cast<uintptr_t>(p);
    return static_cast<uint32_t>(bits & -bits);
  }
  cublasStatus_t set_bias(const Plan& p, const LtProduct& a) {
    return a.bias ? call.desc_set(p.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a.bias, sizeof a.bias) : CUBLAS_STATUS_SUCCESS;
  }

  // The library's matrices lie column by column: D [N, T] = op(W) X with W [K, N] transposed, X [K, T]; the bias is along N
  Plan plan(const LtProduct& a, size_t workspace) {
    Plan p;
    const auto did = [&](cublasStatus_t status) {
      if (p.status == CUBLAS_STATUS_SUCCESS) p.status = status;
      return p.status == CUBLAS_STATUS_SUCCESS;
    };
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t act = epilogue(a);
    const uint32_t aligned = alignment(a);
    const cudaDataType_t type = data_type(a.weights);
    const auto n = static_cast<uint64_t>(a.rows), t = static_cast<uint64_t>(a.tokens), k = static_cast<uint64_t>(a.cols);
    cublasLtMatmulPreference_t preference = nullptr;
    const auto prefer_aligned = [&](auto... which) { return (did(call.preference_set(preference, which, &aligned, sizeof aligned)) && ...); };
    int found = 0;
    if (did(call.desc_create(&p.product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
        did(call.desc_set(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)) &&
        did(call.desc_set(p.product, CUBLASLT_MATMUL_DESC_EPILOGUE, &act, sizeof act)) && did(set_bias(p, a)) &&
        did(call.layout_create(&p.w, type, k, n, a.cols)) && did(call.layout_create(&p.x, type, k, t, a.x_stride)) &&
        did(call.layout_create(&p.y, CUDA_R_32F, n, t, a.y_stride)) && did(call.preference_create(&preference)) &&
        did(call.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace)) &&
        prefer_aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) &&
        did(call.heuristic(handle, p.product, p.w, p.x, p.y, p.y, preference, 1, &p.kernel, &found)) && found == 0)
      p.status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (preference) call.preference_destroy(preference);
    return p;
  }
};

CublasLt::CublasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}
CublasLt::~CublasLt() = default;

std::unique_ptr<CublasLt> CublasLt::open(std::string& why_not, std::span<const char* const> names) {
  why_not.clear();
  for (const char* name : names) {
    auto library = std::make_unique<Library>();
    library->so = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    std::string reason;
    if (library->so == nullptr) {
      const char* const what = ::dlerror();
      reason = what ? what : "cannot be opened";
    } else {
      const std::string missing = library->find_functions();
      if (missing.empty()) return std::unique_ptr<CublasLt>(new CublasLt(std::move(library)));
      reason = fmt::format("{} has no {}", name, missing);
    }
    why_not += (why_not.empty() ? "" : "; ") + reason;
  }
  return nullptr;
}

std::string CublasLt::version() const {
  const size_t v = library_->call.version();
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

int CublasLt::start() {
  const std::lock_guard lock(library_->mutex);
  return library_->start();
}

int CublasLt::multiply(const LtProduct& a, std::span<std::byte> workspace, void* stream) {
  static_assert(kNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
  FG_CHECK(!(a.relu && a.accumulate), "relu of a sum with what was in y");
  Library& l = *library_;
  const std::lock_guard lock(l.mutex);
  if (const cublasStatus_t status = l.start(); status != CUBLAS_STATUS_SUCCESS) return status;
  const Library::Shape shape{a.tokens, a.rows, a.cols, a.x_stride, a.y_stride, a.weights, l.epilogue(a), l.alignment(a), workspace.size()};
  auto found = l.plans.find(shape);
  if (found == l.plans.end()) {
    if (l.plans.size() == Library::kPlans) l.forget_plans();
    found = l.plans.emplace(shape, l.plan(a, workspace.size())).first;
  }
  const Library::Plan& p = found->second;
  if (p.status != CUBLAS_STATUS_SUCCESS) return p.status;
  if (const cublasStatus_t status = l.set_bias(p, a); status != CUBLAS_STATUS_SUCCESS) return status;
  const float one = 1, before = a.accumulate ? 1 : 0;  // of y
  return l.call.matmul(l.handle, p.product, &one, a.w, p.w, a.x, p.x, &before, a.y, p.y, a.y, p.y, &p.kernel.algo, workspace.data(),
                       workspace.size(), static_cast<cudaStream_t>(stream));
}

std::string CublasLt::error(int status) const { return library_->call.status_name(static_cast<cublasStatus_t>(status)); }

}  // namespace flexgen::cuda

#else

namespace flexgen::cuda {

struct CublasLt::Library {};

CublasLt::CublasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}
CublasLt::~CublasLt() = default;
std::unique_ptr<CublasLt> CublasLt::open(std::string& why_not, std::span<const char* const>) {
  why_not = "built without cublasLt.h";
  return nullptr;
}
std::string CublasLt::version() const { return ""; }
int CublasLt::start() { return 1; }
int CublasLt::multiply(const LtProduct&, std::span<std::byte>, void*) { return 1; }
std::string CublasLt::error(int) const { return "built without cublasLt.h"; }

}  // namespace flexgen::cuda

#endif
