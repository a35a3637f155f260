// SPDX-License-Identifier: Apache-2.0
#include "kernels/registry.h"

#include "support/errors.h"
#include "support/fake_device.h"

using namespace flexgen;

TEST_CASE("the registry knows its backends and refuses others by name", "[ops]") {
  CHECK(backends().back()->name == "ref");
  CHECK(&backend("auto") == backends().front());
  CHECK(backend("portable").name == "portable");
  for (const Backend* b : backends()) CHECK(&backend(b->name) == b);
  CHECK_FAULT(backend("sse9"), Fault::usage, "--isa: found 'sse9', this build on this CPU has auto");
  CHECK_FAULT(backend("sse9"), Fault::usage, "portable, ref. Choose one of these");
  CHECK_FAULT(backend(""), Fault::usage, "--isa: found ''");
}

#if !FLEXGEN_TEST_CUDA
TEST_CASE("a build without CUDA has no cards and says why", "[ops]") {
  std::string why;
  CHECK(devices(&why).empty());
  CHECK(why == "this build has no CUDA kernels");
  CHECK_FAULT(open_device(0), Fault::usage, "--device cuda:0: found no card (this build has no CUDA kernels). Use --device cpu");
}
#endif

TEST_CASE("operations refuse operands that contradict each other", "[ops]") {
  ThreadPool pool(1);
  const Backend& b = backend("ref");
  float f[64] = {};
  const RowBlock block{reinterpret_cast<const std::byte*>(f), 0, 4}, beyond{reinterpret_cast<const std::byte*>(f), 1, 4};
  const std::span<const RowBlock> good(&block, 1), bad(&beyond, 1);
  const auto run_linear = [&](int64_t x_cols, int64_t y_cols, std::span<const RowBlock> blocks) {
    linear(b, {{f, 2, x_cols, 8}, {DType::f32, 4, 3, blocks}, nullptr, {f + 32, 2, y_cols, 8}, Activation::none, false}, {&pool});
  };
  CHECK_NOTHROW(run_linear(3, 4, good));
  CHECK_FAULT(run_linear(2, 4, good), Fault::internal, "x 2 x 2, W 4 x 3, y 2 x 4");
  CHECK_FAULT(run_linear(3, 5, good), Fault::internal, "y 2 x 5");
  CHECK_FAULT(run_linear(3, 4, bad), Fault::internal, "row block [1, 5) of a matrix with 4 rows");
  CHECK_FAULT(layer_norm(b, {{f, 1, 4, 3}, nullptr, nullptr, {f, 1, 4, 4}, 1e-5f}, {&pool}), Fault::internal, "x is 1 x 4, stride 3");
  CHECK_FAULT(layer_norm(b, {{f, 1, 4, 4}, nullptr, nullptr, {f, 1, 4, 4}, 0}, {&pool}), Fault::internal, "eps 0");
  const int32_t id = 4;
  CHECK_FAULT(embed(b, {{&id, 1}, {DType::f32, 4, 3, good}, {f + 32, 1, 3, 3}, false}, {&pool}), Fault::internal, "id 4 of 4 rows");
  const int32_t last = 3;
  const RowBlock some{reinterpret_cast<const std::byte*>(f), 0, 2};
  CHECK_FAULT(embed(b, {{&last, 1}, {DType::f32, 4, 3, {&some, 1}}, {f + 32, 1, 3, 3}, false}, {&pool}), Fault::internal,
              "row 3 of 4 is in no block");
  CHECK_FAULT(attention(b, {{f, 1, 6, 6}, {f + 32, 1, 6, 6}, 3, 1, {DType::f32, 2, 2, 32}, {}}, {&pool}), Fault::internal,
              "3 query heads, 2 KV heads");
  CHECK_FAULT(attention(b, {{f, 1, 4, 4}, {f + 32, 1, 4, 4}, 2, 1, {DType::f32, 2, 2, 33}, {}}, {&pool}), Fault::internal, "pages of 33 tokens");
  CHECK_FAULT(attention(b, {{f, 1, 4, 4}, {f + 32, 1, 4, 4}, 2, 1, {DType::bf16, 2, 2, 32}, {}}, {&pool}), Fault::internal, "cache in bf16");
  const KvSpan span{1, 1, 0, nullptr, nullptr};
  CHECK_FAULT(kv_append(b, {{f, 1, 4, 4}, {f, 1, 4, 4}, {DType::f32, 2, 2, 32}, {&span, 1}}, {&pool}), Fault::internal, "span of rows [1, 2) of 1");
}

TEST_CASE("operations on a card are there where CUDA was compiled, or their absence is said", "[ops]") {
  testing::FakeDevice device;
  std::unique_ptr<DeviceBackend> made;
  try {
    made = make_device_backend(device);
  } catch (const Error&) {
    CHECK_FAULT(make_device_backend(device), Fault::usage,
                "--device: this build has no CUDA kernels. Build it with -DFLEXGEN_CUDA=ON, or take --device cpu");
    return;
  }
  CHECK(made->operations().name == "cuda");
  CHECK(&made->device() == &device);
}

TEST_CASE("a library for --gemm cublaslt that is not there is said in one line", "[ops]") {
  const char* const names[] = {"libflexgen-no-such-library.so.1"};
  CHECK_FAULT(open_cublaslt(names), Fault::usage, "--gemm cublaslt: found no such library (");
  CHECK_FAULT(open_cublaslt(names), Fault::usage,
              "), allowed own. Put cuBLASLt 12 or 13 where the loader looks (LD_LIBRARY_PATH), or use --gemm own");
  if (FLEXGEN_TEST_CUDA) CHECK_FAULT(open_cublaslt(names), Fault::usage, "libflexgen-no-such-library.so.1: cannot open shared object file");
}
