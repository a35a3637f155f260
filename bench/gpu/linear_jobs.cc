// SPDX-License-Identifier: Apache-2.0
// The linear layers of OPT-6.7B, 30B and 175B: what choose() takes for the shape, the same in one order, and cuBLASLt; then what every
// other kernel of the table would have given, so that its numbers can be set from one run.
#include <algorithm>
#include <vector>

#include "bench/gpu/jobs.h"
#include "kernels/cuda/api/gemm.h"

namespace flexgen::bench {
namespace {

struct Shape {
  std::string model, matrix;
  int64_t rows, cols, tokens;
  DType dtype;

  std::string name() const { return fmt::format("{} {} {} T={}", model, matrix, flexgen::name(dtype), tokens); }
  double flops() const { return 2 * static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(cols); }
  // each operand once
  double bytes(size_t x_element) const {
    return static_cast<double>(rows) * static_cast<double>(cols) * 2 + static_cast<double>(tokens * cols) * static_cast<double>(x_element) +
           static_cast<double>(tokens * rows) * 4;
  }
};

std::vector<Shape> shapes(Scale scale) {
  struct Model { const char* name; int64_t width; };
  std::vector<Model> models{{"opt-6.7b", 4096}, {"opt-30b", 7168}, {"opt-175b", 12288}};
  std::vector<int64_t> tokens{1, 8, 32, 64, 256, 2048, 4096, 16384};
  std::vector<DType> types{DType::f16, DType::bf16};
  if (scale == Scale::quick) models = {{"opt-30b", 7168}}, tokens = {1, 32, 256, 4096}, types = {DType::f16};
  if (scale == Scale::smoke) models = {{"tiny", 64}}, tokens = {1, 40};
  std::vector<Shape> all;
  for (int64_t t : tokens)
    for (DType dtype : types)
      for (const Model& m : models)
        for (const auto& [matrix, n, k] : {std::tuple{"qkv", 3 * m.width, m.width}, {"out", m.width, m.width}, {"fc1", 4 * m.width, m.width},
                                           {"fc2", m.width, 4 * m.width}})
          all.push_back({m.name, matrix, n, k, t, dtype});
  return all;
}

// Operands of a shape: the weights so often that they come from memory each time
class Operands {
 public:
  Operands(Session& s, const Shape& shape)
      : s_(s), shape_(shape), sets_(s.sets_of(static_cast<double>(shape.rows * shape.cols) * 2)),
        x_(s.random(DType::f32, shape.tokens * shape.cols, 1, 1)),
        rounded_(s.memory(cuda::rounded_x_bytes(shape.tokens, shape.cols))),
        w_(s.random(shape.dtype, sets_ * shape.rows * shape.cols, 1, 2)),
        bias_(s.random(DType::f32, shape.rows, 1, 3)),
        y_(s.memory(static_cast<size_t>(shape.tokens * shape.rows) * 4)),
        workspace_(s.memory(std::max(cuda::linear_workspace(shape.tokens, shape.rows, shape.cols, shape.dtype, cuda::Arithmetic::fast),
                                     rounded_.size()))) {
    for (std::byte* to : {rounded_.data(), workspace_.data()}) check_launch(cuda::round_x(x(), shape.dtype, to, s.stream()), "round_x");
  }

  Row row(const char* role, const std::string& kernel, size_t x_element) const {
    Row r;
    r.group = "linear", r.name = shape_.name(), r.kernel = kernel, r.role = role;
    r.bytes = shape_.bytes(x_element), r.flops = shape_.flops();
    return r;
  }

  void run(const char* role, const std::string& kernel, cuda::Arithmetic arithmetic, std::optional<cuda::ForcedKernel> forced, bool rounded_before) {
    s_.emit(s_.timed(row(role, kernel, rounded_before ? 2 : 4), sets_, [&](int set) {
      const RowBlock block{w(set), 0, shape_.rows};
      cuda::LinearCall call;
      call.args = {x(), {shape_.dtype, shape_.rows, shape_.cols, {&block, 1}}, reinterpret_cast<const float*>(bias_.data()),
                   {reinterpret_cast<float*>(y_.data()), shape_.tokens, shape_.rows, shape_.rows}, Activation::none, false};
      call.arithmetic = arithmetic, call.forced = forced, call.workspace = workspace_.memory();
      bool x_ready = rounded_before;  // every call leaves it there, at the workspace's start
      call.x_ready = &x_ready;
      check_launch(cuda::linear(s_.card(), call, s_.stream()), "linear");
    }));
  }

  void cublaslt() {
    cuda::CublasLt* const lt = s_.cublaslt();
    if (lt == nullptr) return;
    const auto launch = [&](int set) {
      return lt->multiply({rounded_.data(), w(set), reinterpret_cast<float*>(y_.data()), cuda::padded_cols(shape_.cols), shape_.rows, shape_.tokens,
                           shape_.rows, shape_.cols, shape_.dtype},
                          s_.cublaslt_workspace(), s_.stream());
    };
    if (const int status = launch(0)) {
      s_.emit(Skipped{"cuBLASLt " + shape_.name(), lt->error(status)});
      return;
    }
    s_.emit(s_.timed(row("cublaslt", "cublaslt", 2), sets_, [&](int set) { launch(set); }));
  }

 private:
  MatView<const float> x() const { return {reinterpret_cast<const float*>(x_.data()), shape_.tokens, shape_.cols, shape_.cols}; }
  const std::byte* w(int set) const { return w_.data() + static_cast<int64_t>(set) * shape_.rows * shape_.cols * 2; }

  Session& s_;
  const Shape& shape_;
  int sets_;
  DeviceMemory x_, rounded_, w_, bias_, y_, workspace_;
};

std::string kernel_name(const cuda::LinearChoice& c) {
  const cuda::LinearKernelRow& row = cuda::linear_kernel(c.kernel);
  if (c.splits() > 1) return fmt::format("{} K/{}", row.name, c.splits());
  return c.warps_along_k > 1 ? fmt::format("{} K/{}", row.name, c.warps_along_k) : row.name;
}

void time_chosen(Session& s, const Shape& shape) {
  if (shape.dtype == DType::bf16 && s.info().arch < 80) return;
  Operands operands(s, shape);
  const cuda::LinearShape linear{shape.tokens, shape.rows, shape.cols, shape.dtype};
  const cuda::LinearChoice fast = choose(s.card(), linear, cuda::Arithmetic::fast), ordered = choose(s.card(), linear, cuda::Arithmetic::one_order);
  operands.run("chosen", kernel_name(fast), cuda::Arithmetic::fast, {}, false);
  if (fast.rounded_x) operands.run("rounded", kernel_name(fast), cuda::Arithmetic::fast, {}, true);
  operands.run("one_order", kernel_name(ordered), cuda::Arithmetic::one_order, {}, false);
  operands.cublaslt();
}

// Every kernel that choose() weighs for the shape, with x rounded before, cut along K in the ways that are worth it
void time_variants(Session& s, const Shape& shape) {
  if (shape.dtype == DType::bf16 && s.info().arch < 80) return;
  Operands operands(s, shape);
  const cuda::LinearShape linear{shape.tokens, shape.rows, shape.cols, shape.dtype};
  const cuda::LinearChoice chosen = choose(s.card(), linear, cuda::Arithmetic::fast);
  const size_t workspace = cuda::linear_workspace(shape.tokens, shape.rows, shape.cols, shape.dtype, cuda::Arithmetic::fast);
  for (const cuda::LinearKernelRow& kernel : cuda::kLinearKernels) {
    if (kernel.family == cuda::LinearFamily::f32 || !can_run(s.card(), kernel, shape.dtype)) continue;
    if (kernel.most_tokens != 0 && shape.tokens > kernel.most_tokens) continue;
    const bool gemv = kernel.family == cuda::LinearFamily::gemv;
    if ((gemv ? kernel.most_tokens : kernel.tokens) > std::max<int64_t>(gemv ? 1 : 16, 2 * shape.tokens)) continue;  // mostly empty
    if (shape.tokens >= 4096 && kernel.tokens < 128) continue;              // hopeless, and long
    for (int pieces : {1, 2, 4, 8, 16}) {
      if (pieces > 1 && (gemv ? pieces > 4 : shape.tokens > 256)) break;
      const cuda::LinearChoice cut = cuda::cut(kernel.kernel, linear, pieces);
      if (!gemv && (static_cast<int>(cut.splits()) != pieces || cut.partial_bytes > workspace)) break;
      if (cut.kernel == chosen.kernel && cut.splits() == chosen.splits() && cut.warps_along_k == chosen.warps_along_k) continue;  // has its row
      operands.run("variant", kernel_name(cut), cuda::Arithmetic::fast, cuda::ForcedKernel{kernel.kernel, pieces}, !gemv);
    }
  }
}

}  // namespace

std::vector<Job> linear_jobs(Scale scale) {
  std::vector<Job> jobs;
  for (const Shape& shape : shapes(scale)) jobs.push_back({"linear: " + shape.name(), [shape](Session& s) { time_chosen(s, shape); }});
  return jobs;
}

std::vector<Job> variant_jobs(Scale scale) {
  std::vector<Job> jobs;
  for (const Shape& shape : shapes(scale))
    if (shape.dtype == DType::f16) jobs.push_back({"variants: " + shape.name(), [shape](Session& s) { time_variants(s, shape); }});
  return jobs;
}

}  // namespace flexgen::bench
