// SPDX-License-Identifier: Apache-2.0
#include "support/fake_cudart.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace flexgen::testing {
namespace {

cudaDeviceProp card(const char* name, int major, int minor, int multiprocessors, size_t shared, size_t total) {
  cudaDeviceProp p{};
  std::strncpy(p.name, name, sizeof p.name - 1);
  p.major = major, p.minor = minor, p.multiProcessorCount = multiprocessors, p.sharedMemPerBlockOptin = shared, p.totalGlobalMem = total;
  return p;
}

thread_local int current_card = -1;

cudaError_t called(const std::string& function, uint64_t argument, cudaError_t result = cudaSuccess) {
  FakeCudart& f = FakeCudart::get();
  const std::lock_guard lock(f.mutex);
  f.calls.push_back(function + "(" + std::to_string(argument) + ") on card " + std::to_string(current_card));
  if (const auto found = f.fail.find(function); found != f.fail.end()) result = found->second;
  if (result != cudaSuccess) f.last_error = result;
  return result;
}
template <typename Handle>
uint64_t number(Handle* h) {
  return reinterpret_cast<uintptr_t>(h);
}
template <typename Handle>
cudaError_t create(const char* function, Handle** h, unsigned flags, uintptr_t value) {
  *h = reinterpret_cast<Handle*>(value);
  return called(function, flags);
}

}  // namespace

FakeCudart& FakeCudart::get() {
  static FakeCudart f;
  return f;
}
void FakeCudart::reset() {
  cards = {card("NVIDIA H200", 9, 0, 132, 232448, 150110011392), card("Tesla T4", 7, 5, 40, 65536, 15655829504)};
  count_error = cudaSuccess, driver_version = 13000, free_bytes = 3u << 30, milliseconds = 0, last_error = cudaSuccess;
  fail.clear(), calls.clear();
}
size_t FakeCudart::count(const std::string& call) const { return static_cast<size_t>(std::count(calls.begin(), calls.end(), call)); }

}  // namespace flexgen::testing

using flexgen::testing::called;
using flexgen::testing::FakeCudart;

extern "C" {

cudaError_t cudaGetDeviceCount(int* n) {
  FakeCudart& f = FakeCudart::get();
  *n = static_cast<int>(f.cards.size());
  return called("cudaGetDeviceCount", 0, f.count_error);
}
cudaError_t cudaDriverGetVersion(int* v) {
  *v = FakeCudart::get().driver_version;
  return called("cudaDriverGetVersion", 0);
}
cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = 13000;
  return called("cudaRuntimeGetVersion", 0);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int index) {
  *p = FakeCudart::get().cards.at(static_cast<size_t>(index));
  return called("cudaGetDeviceProperties", static_cast<uint64_t>(index));
}
cudaError_t cudaSetDevice(int index) {
  const cudaError_t error = called("cudaSetDevice", static_cast<uint64_t>(index));
  if (error == cudaSuccess) flexgen::testing::current_card = index;
  return error;
}
cudaError_t cudaSetDeviceFlags(unsigned flags) { return called("cudaSetDeviceFlags", flags); }
cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = reinterpret_cast<void*>(0x1000);
  return called("cudaMalloc", bytes);
}
cudaError_t cudaFree(void* p) { return called("cudaFree", flexgen::testing::number(static_cast<char*>(p))); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = FakeCudart::get().free_bytes, *total = 0;
  return called("cudaMemGetInfo", 0);
}
cudaError_t cudaHostRegister(void*, size_t bytes, unsigned flags) {
  return called("cudaHostRegister", bytes, flags == cudaHostRegisterPortable ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostUnregister(void*) { return called("cudaHostUnregister", 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  return flexgen::testing::create("cudaStreamCreateWithFlags", s, flags, 1);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) { return called("cudaStreamDestroy", flexgen::testing::number(s)); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return called("cudaStreamSynchronize", flexgen::testing::number(s)); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t e, unsigned) { return called("cudaStreamWaitEvent", flexgen::testing::number(e)); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) { return flexgen::testing::create("cudaEventCreateWithFlags", e, flags, 2); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return called("cudaEventDestroy", flexgen::testing::number(e)); }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { return called("cudaEventRecord", flexgen::testing::number(e)); }
cudaError_t cudaEventQuery(cudaEvent_t e) { return called("cudaEventQuery", flexgen::testing::number(e)); }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return called("cudaEventSynchronize", flexgen::testing::number(e)); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = FakeCudart::get().milliseconds;
  return called("cudaEventElapsedTime", 0);
}
cudaError_t cudaMemcpyAsync(void*, const void*, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return called("cudaMemcpyAsync", bytes, kind == cudaMemcpyDefault ? cudaSuccess : cudaErrorInvalidMemcpyDirection);
}
cudaError_t cudaGetLastError() {
  FakeCudart& f = FakeCudart::get();
  const std::lock_guard lock(f.mutex);
  return std::exchange(f.last_error, cudaSuccess);
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    default: return "cudaErrorOther";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "something else";
  }
}

}  // extern "C"
