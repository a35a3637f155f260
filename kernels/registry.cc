// SPDX-License-Identifier: Apache-2.0
#include "kernels/registry.h"

#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "flexgen/memory/device_text.h"
#include "flexgen/ops/ref/backend.h"
#include "kernels/cpu/driver.h"
#ifdef FLEXGEN_WITH_CUDA
#include "kernels/cuda/runtime/cublaslt.h"
#include "kernels/cuda/runtime/cuda_device.h"
#endif

namespace flexgen {
namespace {

constexpr Backend kPortable = cpu::make_backend<cpu::kPortable>("portable");

#if defined(__x86_64__)
constexpr Backend kAvx2 = cpu::make_backend<cpu::kAvx2>("avx2");
constexpr Backend kAvx512 = cpu::make_backend<cpu::kAvx512>("avx512");

// clang 14 has no name for it in __builtin_cpu_supports
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
// __builtin_cpu_supports also asks XGETBV whether the system saves the registers
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
#endif

std::vector<const Backend*> detect() {
  std::vector<const Backend*> list;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx512()) list.push_back(&kAvx512);
  if (has_avx2()) list.push_back(&kAvx2);
#endif
  list.push_back(&kPortable);
  list.push_back(&ref::kBackend);
  return list;
}

}  // namespace

std::span<const Backend* const> backends() {
  static const std::vector<const Backend*> list = detect();
  return list;
}

const Backend& backend(std::string_view name) {
  if (name == "auto") return *backends().front();
  std::string names = "auto";
  for (const Backend* b : backends()) {
    if (b->name == name) return *b;
    names += ", " + std::string(b->name);
  }
  fail(Fault::usage, "--isa: found '{}', this build on this CPU has {}. Choose one of these", printable(name), names);
}

#ifdef FLEXGEN_WITH_CUDA
std::vector<DeviceInfo> devices(std::string* why_none) { return cuda::cuda_devices(why_none); }
static std::unique_ptr<Device> open(int index) { return cuda::open_cuda_device(index); }
#else
std::vector<DeviceInfo> devices(std::string* why_none) {
  if (why_none) *why_none = "this build has no CUDA kernels";
  return {};
}
static std::unique_ptr<Device> open(int) { return nullptr; }  // of none
#endif

std::unique_ptr<Device> open_device(int index) {
  std::string why_none, names;
  for (const DeviceInfo& i : devices(&why_none)) {
    if (i.index == index) return open(index);
    names += (names.empty() ? "" : ", ") + name_of(i);
  }
  if (names.empty()) fail(Fault::usage, "--device cuda:{}: found no card ({}). Use --device cpu", index, why_none);
  fail(Fault::usage, "--device cuda:{}: found {}. Choose one of these, or use --device cpu", index, names);
}

std::shared_ptr<cuda::CublasLt> open_cublaslt([[maybe_unused]] std::span<const char* const> names) {
  std::string why_not;
#ifdef FLEXGEN_WITH_CUDA
  if (auto library = cuda::CublasLt::open(why_not, names.empty() ? std::span<const char* const>(cuda::CublasLt::kNames) : names)) return library;
#else
  why_not = "this build has no CUDA kernels";
#endif
  fail(Fault::usage,
       "--gemm cublaslt: found no such library ({}), allowed own. Put cuBLASLt 12 or 13 where the loader looks (LD_LIBRARY_PATH), or use --gemm own",
       why_not);
}

std::unique_ptr<DeviceBackend> make_device_backend([[maybe_unused]] Device& device, [[maybe_unused]] const cuda::CudaBackendOptions& options) {
#ifdef FLEXGEN_WITH_CUDA
  return cuda::make_cuda_backend(device, options);
#else
  fail(Fault::usage, "--device: this build has no CUDA kernels. Build it with -DFLEXGEN_CUDA=ON, or take --device cpu");
#endif
}

}  // namespace flexgen
