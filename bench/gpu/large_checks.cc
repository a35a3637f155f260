// SPDX-License-Identifier: Apache-2.0
// Shapes of real models, whose reference is a plain f32 kernel on the card (check_kernels.h; tests/cuda/test_check_kernels.cc has compared
// it with a double on small shapes). Outputs start as NaN, each kernel runs twice, and the two results have the same bits.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "bench/gpu/attention_batch.h"
#include "bench/gpu/check_kernels.h"
#include "bench/gpu/jobs.h"
#include "kernels/cuda/api/gemm.h"

namespace flexgen::bench {
namespace {

struct Output {
  Session& s;
  int64_t rows, cols;
  DeviceMemory memory;

  Output(Session& session, int64_t n_rows, int64_t n_cols)
      : s(session), rows(n_rows), cols(n_cols), memory(session.memory(static_cast<size_t>(n_rows * n_cols) * 4)) {}
  float* data() const { return reinterpret_cast<float*>(memory.data()); }
  void poison() const {  // NaN
    check_launch(write_memory(memory.data(), memory.size() / 16 * 16, s.info().multiprocessors, 0xFFFFFFFF, s.stream()), "write_memory");
    if (const size_t rest = memory.size() % 16) {
      const DeviceMemory nan = s.upload(std::vector<uint32_t>(4, 0xFFFFFFFF));
      s.device().copy(memory.data() + memory.size() - rest, nan.data(), rest, s.stream());
      s.device().synchronize_stream(s.stream());
    }
  }
};

struct Tolerance {
  float c, rel;    // of an element
  double all;      // relative L2 of all
};

Difference differences(Session& s, const Comparison& a) {
  std::vector<Difference> parts(kCompareBlocks);
  const DeviceMemory there = s.memory(parts.size() * sizeof(Difference));
  check_launch(compare(a, reinterpret_cast<Difference*>(there.data()), s.stream()), "compare");
  s.download(parts.data(), there.data(), there.size());
  Difference sum{};
  for (const Difference& d : parts) sum.error += d.error, sum.size += d.size, sum.wrong += d.wrong;
  return sum;
}

// launch(y) twice; tokens of the reference are every token_step-th
template <typename Launch>
void check_twice(Session& s, const std::string& name, int64_t tokens, int64_t cols, const float* want, const float* magnitude, int64_t token_step,
                 Tolerance most, Launch&& launch) {
  Check check;
  check.name = name;
  const Output first(s, tokens, cols), second(s, tokens, cols);
  for (const Output* y : {&first, &second}) {
    y->poison();
    check_launch(launch(y->data()), "launch");
  }
  const auto expect = [&](bool good, const std::string& message) {
    ++(good ? check.passed : check.failed);
    if (!good) check.message += (check.message.empty() ? "" : "; ") + message;
  };
  const int64_t rows = (tokens + token_step - 1) / token_step;
  const Difference d = differences(s, {first.data(), want, magnitude, cols * token_step, rows, cols, most.c, most.rel});
  expect(d.wrong == 0, fmt::format("{} of {} elements beyond the tolerance", d.wrong, rows * cols));
  const double l2 = std::sqrt(d.error / d.size);
  expect(l2 <= most.all, fmt::format("relative L2 error {:.3g}, allowed {:.3g}", l2, most.all));
  // all tokens, those between the reference's too: the same twice, and no NaN that was left
  const Difference twice = differences(s, {second.data(), first.data(), nullptr, cols, tokens, cols, 0, 0});
  expect(twice.wrong == 0, fmt::format("{} of {} elements differ between two runs or were not written", twice.wrong, tokens * cols));
  s.emit(check);
}

struct LinearCase {
  int64_t tokens, rows, cols;
};

void check_linear(Session& s, DType dtype, LinearCase c) {
  if (dtype == DType::bf16 && s.info().arch < 80) return;
  const DeviceMemory x = s.random(DType::f32, c.tokens * c.cols, 1, 11), w = s.random(dtype, c.rows * c.cols, 1, 12);
  const int32_t step = c.tokens > 1024 ? 13 : 1;
  const Output want(s, (c.tokens + step - 1) / step, c.rows), magnitude(s, want.rows, c.rows);
  const DeviceMemory workspace = s.memory(std::max<size_t>(cuda::linear_workspace(c.tokens, c.rows, c.cols, dtype, cuda::Arithmetic::fast), 256));
  for (const bool rounded : {true, false}) {
    // Two chains of K roundings, 4 sqrt(K) 2^-24 of the magnitude each (tests/cuda/linear_problem.h). Tensor cores cut sums off instead of
    // rounding them, once for each 16 elements, which adds up. A product that is left out is an error of 1 / sqrt(K) of all, 6e-3 at least.
    const double k = static_cast<double>(c.cols);
    const Tolerance most{static_cast<float>((8 * std::sqrt(k) + (rounded ? k / 16 : 0)) * 0x1p-24), 0x1p-22f, rounded ? 5e-4 : 3e-5};
    ReferenceProduct reference{reinterpret_cast<const float*>(x.data()), w.data(), dtype, want.data(), magnitude.data(), c.cols,
                               static_cast<int32_t>(c.tokens), static_cast<int32_t>(c.rows), static_cast<int32_t>(c.cols), step, rounded};
    check_launch(reference_product(reference, s.stream()), "reference_product");
    const auto run = [&](const std::string& kernel, cuda::Arithmetic arithmetic, std::optional<cuda::ForcedKernel> forced) {
      const int64_t half = c.rows / 2;
      const RowBlock halves[] = {{w.data(), 0, half}, {w.data() + half * c.cols * static_cast<int64_t>(size_of(dtype)), half, c.rows - half}};
      const std::string what = fmt::format("{} {} {} x {} x {}", kernel, name(dtype), c.tokens, c.rows, c.cols);
      check_twice(s, what, c.tokens, c.rows, want.data(), magnitude.data(), step, most, [&](float* y) {
        cuda::LinearCall call;
        call.args = {{reinterpret_cast<const float*>(x.data()), c.tokens, c.cols, c.cols}, {dtype, c.rows, c.cols, halves}, nullptr,
                     {y, c.tokens, c.rows, c.rows}, Activation::none, false};
        call.arithmetic = arithmetic, call.forced = forced, call.workspace = workspace.memory();
        return cuda::linear(s.card(), call, s.stream());
      });
    };
    const cuda::LinearShape shape{c.tokens, c.rows, c.cols, dtype};
    for (const cuda::LinearKernelRow& kernel : cuda::kLinearKernels) {
      const bool f32 = kernel.family == cuda::LinearFamily::f32;
      if (!can_run(s.card(), kernel, dtype) || (kernel.family == cuda::LinearFamily::gemm) != rounded) continue;
      if (kernel.most_tokens != 0 && c.tokens > kernel.most_tokens) continue;
      if (f32 && c.tokens > 1024) continue;
      run(kernel.name, cuda::Arithmetic::fast, cuda::ForcedKernel{kernel.kernel, 1});
      const cuda::LinearChoice three = cuda::cut(kernel.kernel, shape, 3);
      if (rounded && three.splits() > 1 && three.partial_bytes <= cuda::kMostPartialBytes)
        run(fmt::format("{} K/{}", kernel.name, three.splits()), cuda::Arithmetic::fast, cuda::ForcedKernel{kernel.kernel, 3});
    }
    for (cuda::Arithmetic arithmetic : {cuda::Arithmetic::fast, cuda::Arithmetic::one_order})
      if (choose(s.card(), shape, arithmetic).rounded_x == rounded)
        run(arithmetic == cuda::Arithmetic::fast ? "chosen" : "one order", arithmetic, {});
  }
}

void check_attention(Session& s, const BatchShape& shape) {
  AttentionBatch batch(s, shape, 1);
  const int64_t tokens = shape.sequences * shape.n_tok, width = shape.heads * shape.head_dim;
  const int32_t step = tokens > 512 ? 7 : 1;
  const Output want(s, (tokens + step - 1) / step, width);
  check_launch(reference_attention(batch.reference(0, want.data(), step), s.stream()), "reference_attention");
  for (const AttentionVariant& v : attention_variants(s, shape)) {
    const PlannedBatch planned(s, batch, v.choice);
    // prefill rounds q and the probabilities to f16: 2^-11 of each. A position that is left out is a hundredth at least.
    const Tolerance most = v.choice.tensor_cores ? Tolerance{4e-3f, 4e-3f, 2e-3} : Tolerance{3e-5f, 3e-5f, 3e-5};
    check_twice(s, fmt::format("{} {}", v.name, shape.name()), tokens, width, want.data(), nullptr, step, most,
                [&](float* y) { return planned.launch(0, y, s.stream()); });
  }
}

}  // namespace

std::vector<Job> large_check_jobs(Scale scale) {
  std::vector<LinearCase> linears{{1, 50272, 7168}, {8, 28672, 7168}, {33, 7168, 28672}, {300, 16384, 4096}, {4097, 4104, 4096}};
  std::vector<BatchShape> batches{{.sequences = 33, .positions = 2049, .n_tok = 1, .heads = 32, .kv_heads = 32, .head_dim = 128},
                                  {.sequences = 3, .positions = 8000, .n_tok = 2, .heads = 32, .kv_heads = 8, .head_dim = 80},
                                  {.sequences = 3, .positions = 1500, .n_tok = 1500, .heads = 16, .kv_heads = 16, .head_dim = 64},
                                  {.sequences = 5, .positions = 700, .n_tok = 513, .heads = 32, .kv_heads = 4, .head_dim = 128}};
  if (scale == Scale::smoke) {
    linears = {{3, 50, 64}, {70, 33, 136}};
    batches = {{.sequences = 2, .positions = 70, .n_tok = 1, .heads = 2, .kv_heads = 1, .head_dim = 64},
               {.sequences = 2, .positions = 40, .n_tok = 33, .heads = 2, .kv_heads = 2, .head_dim = 64}};
  }
  std::vector<Job> jobs;
  for (DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const LinearCase& c : linears)
      jobs.push_back({fmt::format("check: linear {} {} x {} x {}", name(dtype), c.tokens, c.rows, c.cols),
                      [dtype, c](Session& s) { check_linear(s, dtype, c); }});
  for (const BatchShape& shape : batches) jobs.push_back({"check: attention " + shape.name(), [shape](Session& s) { check_attention(s, shape); }});
  return jobs;
}

}  // namespace flexgen::bench
