// SPDX-License-Identifier: Apache-2.0
// The device of the CUDA runtime, on a fake of that runtime: which calls it makes, and what becomes of their errors.
#include "kernels/cuda/runtime/cuda_device.h"

#include <thread>

#include "flexgen/memory/device_text.h"
#include "kernels/cuda/runtime/architectures.h"
#include "kernels/registry.h"
#include "support/errors.h"
#include "support/fake_cudart.h"
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

using namespace flexgen;
using namespace flexgen::testing;

// The registry's other half, which would bring the kernels and the real runtime with it
std::unique_ptr<DeviceBackend> flexgen::cuda::make_cuda_backend(Device&, const CudaBackendOptions&) { return nullptr; }

namespace {

FakeCudart& fresh() {
  FakeCudart::get().reset();
  return FakeCudart::get();
}

std::byte memory[64];

#if NVTX_LOAD_SEQUENCE_VERSION >= 2  // before that a profiler could not be linked in
std::vector<std::string> profiled;  // ranges as the profiler gets them
int profile_push(const char* what) { return profiled.emplace_back(what), 0; }
int profile_pop() { return profiled.emplace_back("end"), 0; }

int start_profiler(NvtxGetExportTableFunc_t table) {
  NvtxFunctionTable functions = nullptr;
  unsigned size = 0;
  if (!static_cast<const NvtxExportTableCallbacks*>(table(NVTX_ETID_CALLBACKS))->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &functions, &size))
    return 0;
  *functions[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(profile_push);
  *functions[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(profile_pop);
  return 1;
}
#endif

}  // namespace

TEST_CASE("every card is listed", "[cuda_device]") {
  fresh();
  std::string why = "?";
  const std::vector<DeviceInfo> cards = devices(&why);
  CHECK(why.empty());
  REQUIRE(cards.size() == 2);
  CHECK(to_string(cards[0]) == "cuda:0  NVIDIA H200, sm_90, 132 multiprocessors, 139.8 GiB");
  CHECK(to_string(cards[1]) == "cuda:1  Tesla T4, sm_75, 40 multiprocessors, 14.6 GiB");
  CHECK(cards[0].shared_bytes == 232448);
}

TEST_CASE("no driver, one that is too old and no card are no errors: a line says which, and the CPU computes", "[cuda_device]") {
  struct Case {
    cudaError_t error;
    int driver;
    const char* why;
  };
  for (const Case& c :
       {Case{cudaErrorInsufficientDriver, 0, "no NVIDIA driver"}, Case{cudaErrorNoDevice, 13000, "no NVIDIA card"},
        Case{cudaErrorInsufficientDriver, 12040, "an NVIDIA driver for CUDA 12.4, this program needs one for 13.0 or newer"},
        Case{cudaErrorSystemNotReady, 13000, "the NVIDIA driver says cudaErrorOther, something else"}, Case{cudaSuccess, 13000, "no NVIDIA card"}}) {
    FakeCudart& f = fresh();
    f.count_error = c.error, f.driver_version = c.driver;
    f.cards.clear();
    std::string why;
    CHECK(devices(&why).empty());
    CHECK(why == c.why);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK_FAULT(open_device(0), Fault::usage, std::string("--device cuda:0: found no card (") + c.why + "). Use --device cpu");
  }
}

TEST_CASE("a card that is not there, that has no kernels, or that does not answer", "[cuda_device]") {
  FakeCudart& f = fresh();
  CHECK_FAULT(open_device(2), Fault::usage,
              "--device cuda:2: found cuda:0 (NVIDIA H200), cuda:1 (Tesla T4). Choose one of these, or use --device cpu");
  CHECK_FAULT(open_device(-1), Fault::usage, "--device cuda:-1");
  CHECK_FAULT(open_device(1), Fault::usage,
              "cuda:1 (Tesla T4): found sm_75, this build has kernels for 80-real,90a-real. Build with -DCMAKE_CUDA_ARCHITECTURES=75, or use "
              "--device cpu");
  f.fail["cudaGetDeviceProperties"] = cudaErrorIllegalAddress;
  CHECK_FAULT(devices(), Fault::gpu, "cuda:0: cudaGetDeviceProperties failed: cudaErrorIllegalAddress");
  fresh().fail["cudaSetDevice"] = cudaErrorDevicesUnavailable;
  std::thread([] { CHECK_FAULT(open_device(0), Fault::gpu, "cuda:0 (NVIDIA H200): cudaSetDevice failed: cudaErrorOther, something else"); }).join();
}

TEST_CASE("which cards a build has kernels for", "[cuda_device]") {
  using cuda::has_kernels;
  CHECK(has_kernels("80-real,90a-real", 80));
  CHECK(has_kernels("80-real,90a-real", 86));  // the same generation
  CHECK(has_kernels("80-real,90a-real", 90));
  CHECK_FALSE(has_kernels("80-real,90a-real", 75));
  CHECK_FALSE(has_kernels("80-real,90a-real", 100));
  CHECK_FALSE(has_kernels("86-real", 80));
  CHECK_FALSE(has_kernels("90a", 100));  // not even by way of the driver
  CHECK(has_kernels("75-real,90-virtual", 120));
  CHECK_FALSE(has_kernels("75-real,90-virtual", 89));
  CHECK(has_kernels("75", 90));
  CHECK(has_kernels("native", 61));
  CHECK(has_kernels("all-major", 61));
  CHECK_FALSE(has_kernels("", 90));
}

TEST_CASE("what the device asks of the runtime", "[cuda_device]") {
  FakeCudart& f = fresh();
  const std::unique_ptr<Device> device = open_device(0);
  CHECK(device->info().arch == 90);
  CHECK(f.count("cudaSetDeviceFlags(4) on card 0") == 1);  // cudaDeviceScheduleBlockingSync
  CHECK(device->free_bytes() == 3_GiB);
  const Device::Stream stream = device->create_stream();
  const Device::Event event = device->create_event(), timed = device->create_event(true);
  CHECK(f.count("cudaStreamCreateWithFlags(1) on card 0") == 1);  // not blocking
  CHECK(f.count("cudaEventCreateWithFlags(3) on card 0") == 1);   // blocking waits, no timing
  CHECK(f.count("cudaEventCreateWithFlags(1) on card 0") == 1);
  std::byte* const data = device->allocate(1000);
  device->pin(memory);
  device->copy(data, memory, 64, stream);
  device->record(event, stream);
  device->wait(event, stream);
  CHECK(device->done(event));
  device->synchronize(event);
  device->synchronize_stream(stream);
  f.milliseconds = 250;
  CHECK(device->seconds_between(timed, timed) == 0.25);
#if NVTX_LOAD_SEQUENCE_VERSION >= 2
  InitializeInjectionNvtx2_fnptr = start_profiler;  // NVTX asks for it at the first range of the process
  { const DeviceRange range(device.get(), "sweep"), within(device.get(), "linear"); }
  CHECK(profiled == std::vector<std::string>{"sweep", "linear", "end", "end"});
#endif
  device->unpin(memory);
  device->release(data);
  device->destroy_event(event), device->destroy_event(timed);
  device->destroy(stream);
  for (const char* call : {"cudaMalloc(1000)", "cudaHostRegister(64)", "cudaMemcpyAsync(64)", "cudaEventRecord(2)", "cudaStreamWaitEvent(2)",
                           "cudaEventQuery(2)", "cudaEventSynchronize(2)", "cudaHostUnregister(0)", "cudaFree(4096)", "cudaStreamDestroy(1)"})
    CHECK(f.count(call + std::string(" on card 0")) == 1);
  CHECK(f.count("cudaEventDestroy(2) on card 0") == 2);
  CHECK(f.count("cudaStreamSynchronize(1) on card 0") == 2);
}

TEST_CASE("a thread that never used the card works, and each sets its card once", "[cuda_device]") {
  FakeCudart& f = fresh();
  f.cards[1].major = 8, f.cards[1].minor = 6;
  const std::unique_ptr<Device> first = open_device(0), second = open_device(1);
  f.calls.clear();
  std::thread([&] {
    for (int i = 0; i < 3; ++i) first->synchronize_stream(nullptr);
    second->destroy(nullptr);
    first->release(nullptr);
  }).join();
  CHECK(f.count("cudaSetDevice(0) on card -1") == 1);
  CHECK(f.count("cudaStreamSynchronize(0) on card 0") == 3);
  CHECK(f.count("cudaStreamSynchronize(0) on card 1") == 1);
  CHECK(f.count("cudaFree(0) on card 0") == 1);
  CHECK(f.count("cudaSetDevice(1) on card 0") == 1);
  CHECK(f.count("cudaSetDevice(0) on card 1") == 1);
}

TEST_CASE("too little memory of a card is said, and the card is sound", "[cuda_device]") {
  FakeCudart& f = fresh();
  const std::unique_ptr<Device> device = open_device(0);
  f.fail["cudaMalloc"] = cudaErrorMemoryAllocation;
  CHECK_FAULT(device->allocate(20_GiB), Fault::space,
              "cuda:0 (NVIDIA H200): memory of the card: found 3.00 GiB free of 140 GiB, 20.0 GiB were asked for. Lower --gpu-memory");
  CHECK(f.last_error == cudaSuccess);  // or the next launch would take it for its own
  f.fail = {{"cudaStreamCreateWithFlags", cudaErrorMemoryAllocation}};
  CHECK_FAULT(device->create_stream(), Fault::space,
              "cuda:0 (NVIDIA H200): cudaStreamCreateWithFlags failed: cudaErrorMemoryAllocation, out of memory. Lower --gpu-memory or end other "
              "programs on that card");
  f.fail.clear();
  CHECK(device->allocate(1) != nullptr);
}

TEST_CASE("memory that cannot be pinned: pinned already, too much, or not on this system", "[cuda_device]") {
  FakeCudart& f = fresh();
  const std::unique_ptr<Device> device = open_device(0);
  f.fail["cudaHostRegister"] = cudaErrorHostMemoryAlreadyRegistered;
  CHECK_FAULT(device->pin(memory), Fault::internal, "cuda:0 (NVIDIA H200): 64 B at");
  CHECK_FAULT(device->pin(memory), Fault::internal, "are pinned already");
  for (cudaError_t error : {cudaErrorMemoryAllocation, cudaErrorOperatingSystem}) {
    f.fail["cudaHostRegister"] = error;
    CHECK_FAULT(device->pin(memory), Fault::space, "cuda:0 (NVIDIA H200): pinning 64 B of host memory: the system refused (");
    CHECK_FAULT(device->pin(memory), Fault::space, "Lower --memory or raise the limit on locked memory (ulimit -l)");
  }
  f.fail["cudaHostRegister"] = cudaErrorNotSupported;
  CHECK_FAULT(device->pin(memory), Fault::gpu,
              "cuda:0 (NVIDIA H200): pinning host memory: this system does not allow it (cudaErrorOther, something else). Use --device cpu");
  CHECK(f.last_error == cudaSuccess);
  f.fail.clear();
  device->pin(memory);
  f.fail["cudaHostRegister"] = cudaErrorIllegalAddress;
  CHECK_FAULT(device->pin(memory), Fault::gpu, "cudaHostRegister failed: cudaErrorIllegalAddress");
}

TEST_CASE("an event that has not happened is no error, and leaves none behind", "[cuda_device]") {
  FakeCudart& f = fresh();
  const std::unique_ptr<Device> device = open_device(0);
  f.fail["cudaEventQuery"] = cudaErrorNotReady;
  CHECK_FALSE(device->done(nullptr));
  CHECK(f.last_error == cudaSuccess);
  f.fail.clear();
  CHECK(device->done(nullptr));
}

TEST_CASE("the first error of a card names the call, the card and the error, and answers every later call", "[cuda_device]") {
  const std::string first =
      "cuda:0 (NVIDIA H200): cudaMemcpyAsync failed: cudaErrorIllegalAddress, an illegal memory access was encountered. This process cannot use "
      "the card any more. Run again; nvidia-smi and the kernel's log say whether it is the card's fault";
  FakeCudart& f = fresh();
  const std::unique_ptr<Device> device = open_device(0);
  f.fail["cudaMemcpyAsync"] = cudaErrorIllegalAddress;
  CHECK_FAULT(device->copy(nullptr, nullptr, 1, nullptr), Fault::gpu, first);
  f.fail.clear();
  f.calls.clear();
  CHECK_FAULT(device->pin(memory), Fault::gpu, first);
  CHECK_FAULT(device->free_bytes(), Fault::gpu, first);
  CHECK_FAULT(device->allocate(1), Fault::gpu, first);
  CHECK_FAULT(device->create_stream(), Fault::gpu, first);
  CHECK_FAULT(device->create_event(), Fault::gpu, first);
  CHECK_FAULT(device->copy(nullptr, nullptr, 1, nullptr), Fault::gpu, first);
  CHECK_FAULT(device->record(nullptr, nullptr), Fault::gpu, first);
  CHECK_FAULT(device->wait(nullptr, nullptr), Fault::gpu, first);
  CHECK_FAULT(device->done(nullptr), Fault::gpu, first);
  CHECK_FAULT(device->synchronize(nullptr), Fault::gpu, first);
  CHECK_FAULT(device->synchronize_stream(nullptr), Fault::gpu, first);
  CHECK_FAULT(device->seconds_between(nullptr, nullptr), Fault::gpu, first);
  CHECK(f.calls.empty());
  device->release(nullptr);  // what is owned is given back all the same
  CHECK(f.count("cudaFree(0) on card 0") == 1);
}

TEST_CASE("every call's error is the card's error", "[cuda_device]") {
  const auto check = [](const char* function, auto call) {
    FakeCudart& f = fresh();
    const std::unique_ptr<Device> device = open_device(0);
    f.fail[function] = cudaErrorIllegalAddress;
    CHECK_FAULT(call(*device), Fault::gpu, std::string(function) + " failed: cudaErrorIllegalAddress");
    CHECK(f.last_error == cudaSuccess);
  };
  check("cudaMemGetInfo", [](Device& d) { d.free_bytes(); });
  check("cudaMalloc", [](Device& d) { d.allocate(1); });
  check("cudaStreamCreateWithFlags", [](Device& d) { d.create_stream(); });
  check("cudaEventCreateWithFlags", [](Device& d) { d.create_event(); });
  check("cudaEventRecord", [](Device& d) { d.record(nullptr, nullptr); });
  check("cudaStreamWaitEvent", [](Device& d) { d.wait(nullptr, nullptr); });
  check("cudaEventQuery", [](Device& d) { d.done(nullptr); });
  check("cudaEventSynchronize", [](Device& d) { d.synchronize(nullptr); });
  check("cudaStreamSynchronize", [](Device& d) { d.synchronize_stream(nullptr); });
  check("cudaEventElapsedTime", [](Device& d) { d.seconds_between(nullptr, nullptr); });
  // ... also where nothing can be thrown: the next call has it
  check("cudaFree", [](Device& d) { d.release(nullptr), d.free_bytes(); });
  check("cudaHostUnregister", [](Device& d) { d.unpin(memory), d.free_bytes(); });
  check("cudaStreamDestroy", [](Device& d) { d.destroy(nullptr), d.free_bytes(); });
  check("cudaEventDestroy", [](Device& d) { d.destroy_event(nullptr), d.free_bytes(); });
  fresh().fail["cudaSetDeviceFlags"] = cudaErrorIllegalAddress;
  CHECK_FAULT(open_device(0), Fault::gpu, "cudaSetDeviceFlags failed");
}
