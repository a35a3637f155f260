// SPDX-License-Identifier: Apache-2.0
// choose() for every kind of card, without one: each shape gets a kernel that the card can run, cut so that it covers the shape.
#include "kernels/cuda/api/choose.h"

#include <string>

#include "kernels/cuda/api/gemm.h"
#include "support/catch.h"

using namespace flexgen;
using namespace flexgen::cuda;

namespace {

constexpr Card kT4{75, 40, 64 << 10}, kA100{80, 108, 163 << 10}, kRtx3090{86, 82, 99 << 10}, kRtx4090{89, 128, 99 << 10}, kH200{90, 132, 227 << 10};
constexpr Card kSmall{75, 14, 48 << 10}, kLater{120, 170, 99 << 10};
constexpr Card kEveryCard[] = {kT4, kA100, kRtx3090, kRtx4090, kH200, kSmall, kLater};

LinearKernel chosen(const Card& card, const LinearShape& shape, Arithmetic arithmetic = Arithmetic::fast) {
  return choose(card, shape, arithmetic).kernel;
}

// "", or the first rule that the choice breaks
std::string what_is_wrong(const Card& card, const LinearShape& shape, Arithmetic arithmetic) {
  const LinearChoice c = choose(card, shape, arithmetic);
  const LinearKernelRow& row = linear_kernel(c.kernel);
  const auto no = [&](const char* what) { return std::string(row.name) + ": " + what; };
  const int64_t splits = c.splits();
  if (!can_run(card, row, shape.weights)) return no("the card cannot run it with these weights");
  if (row.most_tokens != 0 && shape.tokens > row.most_tokens) return no("too many tokens");
  if (row.threads > 1024) return no("too many threads");
  if (c.rounded_x != (row.family == LinearFamily::gemm)) return no("rounding of x");
  if (c.partial_bytes != (splits > 1 ? static_cast<size_t>(splits * shape.tokens * shape.rows) * 4 : 0)) return no("bytes of partial sums");
  const size_t bytes = (c.rounded_x ? rounded_x_bytes(shape.tokens, shape.cols) : 0) + c.partial_bytes;
  if (linear_workspace(shape.tokens, shape.rows, shape.cols, shape.weights, arithmetic) < bytes) return no("more workspace than was said");
  switch (row.family) {
    case LinearFamily::gemm: {
      if (shape.cols % 8 != 0 || arithmetic == Arithmetic::f32) return no("tensor cores");
      const int64_t tiles = (shape.tokens + row.tokens - 1) / row.tokens * ((shape.rows + row.rows - 1) / row.rows);
      if (int64_t{c.grid_x} != tiles || tiles > INT32_MAX || c.grid_y != 1) return no("tiles");
      if (!row.mma_chain && arithmetic != Arithmetic::fast) return no("another order");
      if (splits > 1 && arithmetic != Arithmetic::fast) return no("a split that changes the order");
      if (c.split_cols % row.depth != 0 || splits * c.split_cols < shape.cols) return no("splits");
      if (splits > 1 && (splits - 1) * c.split_cols >= shape.cols) return no("a split of nothing");
      break;
    }
    case LinearFamily::gemv:
      if (shape.cols % 8 != 0 || !shape.aligned_x || arithmetic != Arithmetic::fast) return no("gemv");
      if (int64_t{c.grid_x} * row.rows / c.warps_along_k < shape.rows) return no("rows");
      break;
    case LinearFamily::f32:
      if (int64_t{c.grid_x} * row.rows < shape.rows) return no("rows");
      if (c.grid_y < 1 || c.grid_y > 65535 || (c.grid_y < 65535 && int64_t{c.grid_y} * row.tokens < shape.tokens)) return no("tokens");
      break;
  }
  return "";
}

}  // namespace

TEST_CASE("every shape gets a kernel that the card can run and that covers it", "[cuda]") {
  for (const Card& card : kEveryCard)
    for (DType weights : {DType::f32, DType::f16, DType::bf16})
      for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order, Arithmetic::f32})
        for (int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 200, 2048, 1 << 20})
          for (int64_t rows : {1, 7, 64, 768, 4096, 7168, 50272})
            for (int64_t cols : {0, 1, 8, 63, 64, 768, 4096, 7172, 28672})
              for (bool aligned : {true, false}) {
                const std::string wrong = what_is_wrong(card, {tokens, rows, cols, weights, aligned}, arithmetic);
                if (wrong.empty()) continue;
                CAPTURE(card.arch, name(weights), static_cast<int>(arithmetic), tokens, rows, cols, aligned);
                FAIL(wrong);
              }
}

TEST_CASE("what is chosen for the shapes that matter", "[cuda]") {
  // a token at a time: the memory's speed
  for (const Card& card : {kT4, kA100, kRtx3090, kRtx4090, kH200}) CHECK(chosen(card, {1, 7168, 7168, DType::f16}) == LinearKernel::gemv_1);
  CHECK(chosen(kRtx3090, {8, 7168, 7168, DType::f16}) == LinearKernel::gemv_8);
  CHECK(linear_kernel(chosen(kH200, {8, 7168, 7168, DType::bf16})).family == LinearFamily::gemm);  // CUDA cores would not keep up
  // few rows: warps share a row
  CHECK(choose(kH200, {1, 768, 3072, DType::f16}, Arithmetic::fast).warps_along_k == 4);
  CHECK(choose(kH200, {1, 50272, 7168, DType::f16}, Arithmetic::fast).warps_along_k == 1);
  // a batch of decoding: K is split where tiles are fewer than the card has multiprocessors, but not in one order
  CHECK(choose(kH200, {16, 2048, 16384, DType::f16}, Arithmetic::fast).splits() > 1);
  CHECK(choose(kH200, {16, 50272, 4096, DType::f16}, Arithmetic::fast).splits() == 1);
  CHECK(chosen(kH200, {1, 4096, 4096, DType::f16}, Arithmetic::one_order) == LinearKernel::gemm_16x32);
  // prefill
  CHECK(chosen(kA100, {4096, 16384, 4096, DType::f16}) == LinearKernel::gemm_128x256);
  CHECK(chosen(kH200, {4096, 16384, 4096, DType::bf16}) == LinearKernel::wgmma_128x256);
  CHECK(chosen(kH200, {4096, 16384, 4096, DType::bf16}, Arithmetic::one_order) == LinearKernel::gemm_128x256);
  CHECK(chosen(kLater, {4096, 16384, 4096, DType::bf16}) == LinearKernel::gemm_128x256);  // wgmma is of 9.0 alone
  for (const Card& card : {kRtx3090, kRtx4090}) CHECK(chosen(card, {4096, 16384, 4096, DType::bf16}) == LinearKernel::gemm_128x128);
  CHECK(chosen(kT4, {4096, 16384, 4096, DType::f16}) == LinearKernel::held_128x128);
  // what tensor cores do not take
  CHECK(chosen(kT4, {4096, 16384, 4096, DType::bf16}) == LinearKernel::f32_32);
  CHECK(chosen(kH200, {4096, 16384, 4097, DType::f16}) == LinearKernel::f32_32);
  CHECK(chosen(kH200, {3, 100, 64, DType::f32}) == LinearKernel::f32_4);
}

TEST_CASE("a matrix has one order of summation whatever the tokens, rows and multiprocessors", "[cuda]") {
  for (const Card& card : kEveryCard)
    for (DType weights : {DType::f32, DType::f16, DType::bf16})
      for (int64_t cols : {4096, 4100}) {
        const LinearFamily family = linear_kernel(chosen(card, {1, 1, cols, weights}, Arithmetic::one_order)).family;
        for (int64_t tokens : {1, 2, 9, 100, 5000})
          for (int64_t rows : {1, 100, 10000})
            for (int sms : {1, 20, 500}) {
              const LinearShape shape{tokens, rows, cols, weights, tokens % 2 == 0};
              const LinearChoice c = choose({card.arch, sms, card.shared_bytes}, shape, Arithmetic::one_order);
              CHECK(linear_kernel(c.kernel).family == family);
              CHECK(family != LinearFamily::gemv);
              CHECK(c.splits() == 1);
            }
      }
}
