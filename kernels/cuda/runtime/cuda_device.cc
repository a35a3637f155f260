// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/runtime/cuda_device.h"

#include <cuda_runtime_api.h>
#if __has_include(<nvtx3/nvToolsExt.h>)  // headers only: they look for a profiler at run time
#include <nvtx3/nvToolsExt.h>
#define FLEXGEN_NVTX 1
#endif

#include <atomic>
#include <mutex>
#include <string_view>

#include "flexgen/memory/device_text.h"
#include "kernels/cuda/runtime/architectures.h"

namespace flexgen::cuda {
namespace {

// The last error stays until it is asked for, and a later launch would take it for its own
void forget_last_error() { static_cast<void>(cudaGetLastError()); }

[[noreturn]] void broken(const std::string& card, const char* call, cudaError_t error) {
  fail(Fault::gpu,
       "{}: {} failed: {}. This process cannot use the card any more. Run again; nvidia-smi and the kernel's log say whether it is the card's fault",
       card, call, error_text(error));
}

std::string version_text(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

DeviceInfo describe(int index) {
  cudaDeviceProp p{};
  if (const cudaError_t error = cudaGetDeviceProperties(&p, index)) {
    forget_last_error();
    broken(fmt::format("cuda:{}", index), "cudaGetDeviceProperties", error);
  }
  return {index, p.name, 10 * p.major + p.minor, p.multiProcessorCount, p.sharedMemPerBlockOptin, p.totalGlobalMem};
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(DeviceInfo info) : info_(std::move(info)) {
    enter();
    check(cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync), "cudaSetDeviceFlags");  // who waits for a stream sleeps
  }

  void pin(std::span<std::byte> memory) override {
    enter();
    const cudaError_t error = cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable);
    if (error == cudaSuccess) return;
    forget_last_error();
    switch (error) {
      case cudaErrorHostMemoryAlreadyRegistered:
        fail(Fault::internal, "{}: {} at {} are pinned already", name_of(info_), format_bytes(memory.size()), static_cast<void*>(memory.data()));
      case cudaErrorNotSupported:
        fail(Fault::gpu, "{}: pinning host memory: this system does not allow it ({}). Use --device cpu", name_of(info_), error_text(error));
      case cudaErrorMemoryAllocation:
      case cudaErrorOperatingSystem:
        fail(Fault::space, "{}: pinning {} of host memory: the system refused ({}). Lower --memory or raise the limit on locked memory (ulimit -l)",
             name_of(info_), format_bytes(memory.size()), error_text(error));
      default: check(error, "cudaHostRegister");
    }
  }
  void unpin(std::span<std::byte> memory) noexcept override {
    use_card(info_.index);
    note(cudaHostUnregister(memory.data()), "cudaHostUnregister");
  }

  const DeviceInfo& info() const override { return info_; }
  uint64_t free_bytes() override {
    enter();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  std::byte* allocate(size_t bytes) override {
    enter();
    void* p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes);
    if (error == cudaErrorMemoryAllocation) {
      forget_last_error();
      out_of_device_memory(info_, bytes, free_bytes());
    }
    check(error, "cudaMalloc");
    return static_cast<std::byte*>(p);  // at a multiple of 256: CUDA C++ Programming Guide, "Device Memory Accesses"
  }
  void release(std::byte* p) noexcept override {
    use_card(info_.index);
    note(cudaFree(p), "cudaFree");
  }

  Stream create_stream() override {
    enter();
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return s;
  }
  void destroy(Stream s) noexcept override {
    use_card(info_.index);
    note(cudaStreamSynchronize(stream(s)), "cudaStreamSynchronize");
    note(cudaStreamDestroy(stream(s)), "cudaStreamDestroy");
  }
  Event create_event(bool timed) override {
    enter();
    cudaEvent_t e = nullptr;
    check(cudaEventCreateWithFlags(&e, cudaEventBlockingSync | (timed ? 0 : cudaEventDisableTiming)), "cudaEventCreateWithFlags");
    return e;
  }
  void destroy_event(Event e) noexcept override {
    use_card(info_.index);
    note(cudaEventDestroy(event(e)), "cudaEventDestroy");
  }

  void copy(std::byte* to, const std::byte* from, size_t bytes, Stream s) override {
    enter();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream(s)), "cudaMemcpyAsync");
  }
  void record(Event e, Stream s) override {
    enter();
    check(cudaEventRecord(event(e), stream(s)), "cudaEventRecord");
  }
  void wait(Event e, Stream s) override {
    enter();
    check(cudaStreamWaitEvent(stream(s), event(e), 0), "cudaStreamWaitEvent");
  }
  bool done(Event e) override {
    enter();
    const cudaError_t error = cudaEventQuery(event(e));
    if (error == cudaErrorNotReady) {
      forget_last_error();
      return false;
    }
    check(error, "cudaEventQuery");
    return true;
  }
  void synchronize(Event e) override {
    enter();
    check(cudaEventSynchronize(event(e)), "cudaEventSynchronize");
  }
  void synchronize_stream(Stream s) override {
    enter();
    check(cudaStreamSynchronize(stream(s)), "cudaStreamSynchronize");
  }
  double seconds_between(Event from, Event to) override {
    enter();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, event(from), event(to)), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) * 1e-3;
  }

  void push_range([[maybe_unused]] const char* what) override {
#ifdef FLEXGEN_NVTX
    nvtxRangePushA(what);
#endif
  }
  void pop_range() override {
#ifdef FLEXGEN_NVTX
    nvtxRangePop();
#endif
  }

 private:
  static cudaStream_t stream(Stream s) { return static_cast<cudaStream_t>(s); }
  static cudaEvent_t event(Event e) { return static_cast<cudaEvent_t>(e); }

  // In front of every call: a broken card stays broken, and the calling thread may never have used it
  void enter() {
    if (broken_.load(std::memory_order_acquire)) throw Error(Fault::gpu, first_error_);
    check(static_cast<cudaError_t>(use_card(info_.index)), "cudaSetDevice");
  }
  void check(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    forget_last_error();
    if (error == cudaErrorMemoryAllocation)  // of no use to whoever asked, but the card is sound
      fail(Fault::space, "{}: {} failed: {}. Lower --gpu-memory or end other programs on that card", name_of(info_), call, error_text(error));
    try {
      broken(name_of(info_), call, error);
    } catch (const Error& e) {
      remember(e);
      throw;
    }
  }
  // Where nothing can be thrown: the next call says it
  void note(cudaError_t error, const char* call) noexcept {
    try {
      check(error, call);
    } catch (const Error&) {
    }
  }
  void remember(const Error& e) {
    const std::lock_guard lock(mutex_);
    if (broken_) return;
    first_error_ = e.what();
    broken_.store(true, std::memory_order_release);
  }

  DeviceInfo info_;
  std::mutex mutex_;
  std::atomic<bool> broken_{false};
  std::string first_error_;  // as long as broken_
};

}  // namespace

std::vector<DeviceInfo> cuda_devices(std::string* why) {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  std::string reason;
  if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0)) {
    reason = "no NVIDIA card";
  } else if (error != cudaSuccess) {
    int driver = 0, runtime = 0;  // a driver that is not there has version 0
    const bool known = cudaDriverGetVersion(&driver) == cudaSuccess && cudaRuntimeGetVersion(&runtime) == cudaSuccess;
    if (known && driver == 0) {
      reason = "no NVIDIA driver";
    } else if (known && error == cudaErrorInsufficientDriver) {
      reason = fmt::format("an NVIDIA driver for CUDA {}, this program needs one for {} or newer", version_text(driver), version_text(runtime));
    } else {
      reason = "the NVIDIA driver says " + error_text(error);
    }
    n = 0;
  }
  forget_last_error();
  if (why) *why = reason;
  std::vector<DeviceInfo> all;
  for (int i = 0; i < n; ++i) all.push_back(describe(i));
  return all;
}

std::unique_ptr<Device> open_cuda_device(int index) {
  DeviceInfo info = describe(index);
  if (!has_kernels(FLEXGEN_CUDA_ARCHITECTURES, info.arch))
    fail(Fault::usage, "{}: found sm_{}, this build has kernels for {}. Build with -DCMAKE_CUDA_ARCHITECTURES={}, or use --device cpu", name_of(info),
         info.arch, FLEXGEN_CUDA_ARCHITECTURES, info.arch);
  return std::make_unique<CudaDevice>(std::move(info));
}

int use_card(int index) {
  static thread_local int current = -1;
  if (current == index) return cudaSuccess;
  const cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) current = index;
  return error;
}

std::string error_text(int cuda_error) {
  const auto error = static_cast<cudaError_t>(cuda_error);
  return fmt::format("{}, {}", cudaGetErrorName(error), cudaGetErrorString(error));
}

}  // namespace flexgen::cuda
