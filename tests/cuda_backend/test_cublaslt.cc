// SPDX-License-Identifier: Apache-2.0
// linear of the CUDA backend by cuBLASLt, which here is a library that multiplies on the CPU: what is given to it and how, what stays with
// our own kernels, and what its errors become.
#include "kernels/cuda/runtime/cublaslt.h"

#include <dlfcn.h>

#include <cmath>

#include "cuda_backend/emulated_card.h"
#include "flexgen/base/checked.h"
#include "kernels/cuda/api/backend.h"
#include "kernels/cuda/api/gemm.h"
#include "support/compare.h"
#include "support/errors.h"
#include "support/fake_cublaslt.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;
using cuda::Arithmetic;
using cuda::CublasLt;

namespace {

constexpr const char* kFake[] = {FLEXGEN_FAKE_CUBLASLT};

// The library as it is when a process has just opened it
FakeCublasLt& fresh_fake() {
  void* const so = ::dlopen(kFake[0], RTLD_NOW | RTLD_LOCAL);
  REQUIRE(so != nullptr);
  FakeCublasLt& fake = reinterpret_cast<GetFakeCublasLt>(::dlsym(so, "fake_cublaslt"))();
  fake = {};
  fake.give = [](void* stream, std::function<void()> work) { emu::launch(stream, std::move(work)); };
  return fake;
}

std::shared_ptr<CublasLt> open_fake() {
  std::string why_not;
  std::shared_ptr<CublasLt> lt = CublasLt::open(why_not, kFake);
  REQUIRE(why_not.empty());
  return lt;
}

// One or several calls of linear for one product
struct Case {
  DType weights = DType::f16;
  int64_t t = 12, n = 40, k = 64;
  std::vector<std::pair<int64_t, int64_t>> blocks{{0, 40}};  // first row and rows
  std::vector<int64_t> gaps{};                              // elements in front of each block in memory
  size_t calls = 1;                                         // of as many blocks each
  bool bias = true, accumulate = false;
  Activation activation = Activation::none;
  int64_t x_stride = 68, y_stride = 44;
};

class Operands {
 public:
  Operands(EmulatedCard& card, Case c, uint64_t seed) : c_(std::move(c)), card_(card) {
    Random random(seed);
    const auto values = [&](int64_t n) {
      std::vector<float> v(static_cast<size_t>(n));
      for (float& f : v) f = static_cast<float>(random.between(-1000, 1000)) * 0x1p-9f;
      return v;
    };
    x_ = values(c_.t * c_.x_stride), bias_ = values(c_.n), before_ = values(c_.t * c_.y_stride);
    x_there_ = card.upload(x_), bias_there_ = card.upload(bias_);
    int64_t elements = 0;
    std::vector<int64_t> at;
    for (size_t i = 0; i < c_.blocks.size(); ++i) {
      if (!c_.gaps.empty()) elements += c_.gaps[i];
      at.push_back(elements);
      elements += c_.blocks[i].second * c_.k;
    }
    w_.resize(static_cast<size_t>(elements) * size_of(c_.weights));
    const std::vector<float> w = values(elements);
    for (size_t i = 0; i < w.size(); ++i) store_element(c_.weights, w_.data(), i, w[i]);
    const std::byte* const w_there = card.upload(w_);
    for (size_t i = 0; i < at.size(); ++i) {
      const int64_t offset = at[i] * static_cast<int64_t>(size_of(c_.weights));
      there_.push_back({w_there + offset, c_.blocks[i].first, c_.blocks[i].second});
      here_.push_back({w_.data() + offset, c_.blocks[i].first, c_.blocks[i].second});
    }
  }

  DeviceDemand demand() const { return {c_.t, 0, 0, c_.n, c_.k, c_.weights}; }

  // y, and what was between its rows. products: of the queue
  std::vector<float> run(DeviceBackend& backend, ProductCounts* products = nullptr) {
    float* const y = card_.upload(before_);
    DeviceQueue& queue = card_.queue(backend, demand());
    const size_t each = there_.size() / c_.calls;
    for (size_t i = 0; i < c_.calls; ++i)
      linear(backend.operations(),
             {{x_there_, c_.t, c_.k, c_.x_stride}, {c_.weights, c_.n, c_.k, std::span(there_).subspan(i * each, each)},
              c_.bias ? bias_there_ : nullptr, {y, c_.t, c_.n, c_.y_stride}, c_.activation, c_.accumulate},
             {nullptr, &queue});
    if (products) *products = queue.products();
    return card_.download(y, before_.size());
  }

  // "" or what differs: two sums of K products each, of x as the kernels read it, and roundings behind them; bits where nothing is written
  std::string compare(const std::vector<float>& got, const std::vector<float>& want) const {
    std::vector<double> bound(before_.size());
    for (const RowBlock& b : here_)
      for (int64_t r = 0; r < b.rows; ++r)
        for (int64_t t = 0; t < c_.t; ++t) {
          const int64_t n = b.first_row + r, at = t * c_.y_stride + n;
          double magnitude =
              std::abs(static_cast<double>(bias_[static_cast<size_t>(n)])) + std::abs(static_cast<double>(before_[static_cast<size_t>(at)]));
          for (int64_t k = 0; k < c_.k; ++k)
            magnitude += std::abs(static_cast<double>(x_[static_cast<size_t>(t * c_.x_stride + k)]) *
                                  static_cast<double>(load_element(c_.weights, b.data, static_cast<size_t>(r * c_.k + k))));
          bound[static_cast<size_t>(at)] = 4 * std::sqrt(static_cast<double>(c_.k)) * 0x1p-24 * magnitude;
        }
    return difference(got, want, [&](size_t i) { return Tolerance{bound[i], bound[i] > 0 ? 0x1p-22 : 0}; });
  }

  const Case& of() const { return c_; }

 private:
  const Case c_;
  EmulatedCard& card_;
  std::vector<float> x_, bias_, before_;
  std::vector<std::byte> w_;
  const float *x_there_, *bias_there_;
  std::vector<RowBlock> there_, here_;
};

cudaDataType type_of(DType t) { return t == DType::f16 ? CUDA_R_16F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

}  // namespace

TEST_CASE("cuBLASLt computes linear: near our own kernels, with the layouts of row-major operands", "[cuda]") {
  uint64_t seed = 0;
  for (const DType weights : {DType::f16, DType::bf16, DType::f32})
    for (const Case& shape : {Case{}, Case{.t = 17, .blocks = {{0, 16}, {16, 20}, {36, 4}}, .x_stride = 80},
                              Case{.t = 33, .n = 64, .blocks = {{8, 12}, {20, 20}}, .y_stride = 72},
                              Case{.blocks = {{0, 24}, {24, 16}}, .calls = 2},
                              Case{.t = 9, .n = 8, .k = 136, .blocks = {{0, 8}}, .x_stride = 136, .y_stride = 8}})
      for (const auto& [bias, accumulate, relu] : {std::tuple(false, false, false), std::tuple(true, false, false), std::tuple(true, true, false),
                                                   std::tuple(true, false, true), std::tuple(false, false, true)}) {
        CAPTURE(name(weights), shape.t, shape.blocks.size(), shape.calls, bias, accumulate, relu, ++seed);
        FakeCublasLt& fake = fresh_fake();
        {
          FakeDeviceOptions o;
          o.lateness = seed % 2 == 0 ? Lateness::late : Lateness::random, o.seed = seed;
          EmulatedCard card(o);
          Case c = shape;
          c.weights = weights, c.bias = bias, c.accumulate = accumulate, c.activation = relu ? Activation::relu : Activation::none;
          Operands operands(card, c, seed);
          const auto own = cuda::make_cuda_backend(card.device());
          const auto lt = cuda::make_cuda_backend(card.device(), {.cublaslt = open_fake()});
          const std::vector<float> want = operands.run(*own);
          CHECK(fake.done.empty());
          CHECK(operands.compare(operands.run(*lt), want) == "");
          ProductCounts products;
          const std::vector<float> again = operands.run(*lt, &products);
          CHECK(operands.compare(again, want) == "");
          CHECK((products.library == c.calls && products.few_tokens == 0 && products.unfit == 0));

          REQUIRE(fake.done.size() == 2 * c.calls);
          CHECK(fake.asked.size() == c.calls);  // once for a shape
          const int64_t rows = c.blocks.back().first + c.blocks.back().second - c.blocks[c.blocks.size() - c.blocks.size() / c.calls].first;
          const FakeLtCall& last = fake.done.back();
          CHECK((last.op_a == CUBLAS_OP_T && last.op_b == CUBLAS_OP_N));
          CHECK((last.a.type == type_of(weights) && last.b.type == type_of(weights) && last.d.type == CUDA_R_32F));
          CHECK((last.a.rows == static_cast<uint64_t>(c.k) && last.a.cols == static_cast<uint64_t>(rows) && last.a.ld == c.k));
          CHECK((last.b.rows == static_cast<uint64_t>(c.k) && last.b.cols == static_cast<uint64_t>(c.t)));
          CHECK(last.b.ld == (weights == DType::f32 ? c.x_stride : c.k));  // of x as it is, or rounded
          CHECK((last.d.rows == static_cast<uint64_t>(rows) && last.d.cols == static_cast<uint64_t>(c.t) && last.d.ld == c.y_stride));
          CHECK(last.beta == (accumulate ? 1.0f : 0.0f));
          CHECK(last.epilogue == (relu ? bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU
                                       : bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT));
          CHECK(last.workspace == CublasLt::kWorkspace);
          CHECK((last.alignment >= 16 && last.alignment <= 256));
        }
        CHECK(fake.alive == 0);
      }
}

TEST_CASE("what does not fit cuBLASLt is computed by our own kernels, to the bit", "[cuda]") {
  struct Other {
    const char* what;
    Case c;
    bool no_kernel = false;
    cublasStatus_t heuristic = CUBLAS_STATUS_SUCCESS;
  };
  uint64_t seed = 0;
  for (const Other& other :
       {Other{"few tokens", {.t = 2}}, Other{"few tokens in f32", {.weights = DType::f32, .t = 2}},
        Other{"blocks apart in memory", {.blocks = {{0, 20}, {20, 20}}, .gaps = {0, 64}}},
        Other{"rows apart in y", {.n = 48, .blocks = {{0, 20}, {28, 20}}, .y_stride = 48}},
        Other{"y from an odd row on", {.n = 41, .blocks = {{1, 40}}}}, Other{"K is no multiple of 8", {.k = 60, .x_stride = 60}},
        Other{"gelu", {.activation = Activation::gelu_tanh}}, Other{"relu before it is added", {.accumulate = true, .activation = Activation::relu}},
        Other{"no kernel", {}, true}, Other{"not supported", {}, false, CUBLAS_STATUS_NOT_SUPPORTED}}) {
    CAPTURE(other.what, ++seed);
    FakeCublasLt& fake = fresh_fake();
    fake.no_kernel = other.no_kernel, fake.heuristic = other.heuristic;
    EmulatedCard card;
    Operands operands(card, other.c, seed);
    const auto own = cuda::make_cuda_backend(card.device());
    const auto lt = cuda::make_cuda_backend(card.device(), {.cublaslt = open_fake()});
    ProductCounts products, of_own;
    CHECK(bit_difference(operands.run(*lt, &products), operands.run(*own, &of_own)) == "");
    CHECK(fake.done.empty());
    const uint64_t few = other.c.t == 2 ? 1 : 0;
    CHECK((products.library == 0 && products.few_tokens == few && products.unfit == 1 - few));
    CHECK((of_own.library == 0 && of_own.few_tokens == 0 && of_own.unfit == 0));
    CHECK(fake.asked.size() == (other.no_kernel || other.heuristic != CUBLAS_STATUS_SUCCESS ? 1 : 0));
  }
}

TEST_CASE("errors of cuBLASLt name the product", "[cuda]") {
  FakeCublasLt& fake = fresh_fake();
  EmulatedCard card;
  Operands operands(card, {}, 1);
  fake.create = CUBLAS_STATUS_NOT_INITIALIZED;
  CHECK_FAULT(cuda::make_cuda_backend(card.device(), {.cublaslt = open_fake()}), Fault::gpu,
              "cuda:0 (Fake card): cuBLASLt 13.1.5 does not start: CUBLAS_STATUS_NOT_INITIALIZED. Use --gemm own");
  fake.create = CUBLAS_STATUS_SUCCESS;
  const auto lt = cuda::make_cuda_backend(card.device(), {.cublaslt = open_fake()});
  CHECK(fake.alive == 1);  // what it takes for itself is taken before anyone asks what is free
  fake.matmul = CUBLAS_STATUS_EXECUTION_FAILED;
  CHECK_FAULT(operands.run(*lt), Fault::gpu,
              "linear: cuBLASLt 13.1.5: 12 tokens x 40 rows x 64 columns of f16: CUBLAS_STATUS_EXECUTION_FAILED. Use --gemm own");
  fake.matmul = CUBLAS_STATUS_SUCCESS, fake.heuristic = CUBLAS_STATUS_INVALID_VALUE;
  Operands other(card, {.t = 13}, 1);
  CHECK_FAULT(other.run(*lt), Fault::gpu, "13 tokens x 40 rows x 64 columns of f16: CUBLAS_STATUS_INVALID_VALUE. Use --gemm own");
}

TEST_CASE("cuBLASLt's workspace is the queue's, and it keeps no order of sums", "[cuda]") {
  fresh_fake();
  EmulatedCard card;
  const auto own = cuda::make_cuda_backend(card.device()), lt = cuda::make_cuda_backend(card.device(), {.cublaslt = open_fake()});
  for (const DType weights : {DType::f16, DType::f32}) {
    const DeviceDemand demand{100, 0, 0, 40, 64, weights};
    const size_t x = weights == DType::f16 ? round_up<size_t>(cuda::rounded_x_bytes(100, 64), 256) : 0;
    CHECK(lt->workspace_bytes(demand) - own->arguments_bytes(demand) == x + CublasLt::kWorkspace);
    CHECK(lt->arguments_bytes(demand) == own->arguments_bytes(demand));
  }
  for (const Arithmetic arithmetic : {Arithmetic::one_order, Arithmetic::f32})
    CHECK_FAULT(cuda::make_cuda_backend(card.device(), {arithmetic, open_fake()}), Fault::internal, "cuBLASLt keeps no order of sums");
  CHECK(open_fake()->version() == "13.1.5");
}
