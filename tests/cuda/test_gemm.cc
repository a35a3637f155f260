// SPDX-License-Identifier: Apache-2.0
// The kernels of the linear layer in the emulator: exact sums at every edge of every tile, random operands against a double, the bits of
// the CPU where they are promised, and one order of summation whatever the batch and the cut.
#include "kernels/cuda/api/gemm.h"

#include "cuda/linear_problem.h"
#include "support/contract.h"
#include "support/errors.h"

using namespace flexgen;
using namespace flexgen::testing;
using cuda::Arithmetic;
using cuda::LinearFamily;
using cuda::LinearKernel;

namespace {

constexpr LinearKernel kAsync[] = {LinearKernel::gemm_128x256, LinearKernel::gemm_128x128, LinearKernel::gemm_64x64,
                                   LinearKernel::gemm_32x64,   LinearKernel::gemm_16x64,   LinearKernel::gemm_16x32};
constexpr LinearKernel kWgmma[] = {LinearKernel::wgmma_128x256};
constexpr LinearKernel kHeld[] = {LinearKernel::held_128x128, LinearKernel::held_64x64, LinearKernel::held_16x64};

bool is_held(LinearKernel kernel) { return std::find(std::begin(kHeld), std::end(kHeld), kernel) != std::end(kHeld); }

// The sums of small integers are exact, so they must be equal, not close
void check_exact(LinearProblem& p, LinearKernel kernel, int pieces_of_k = 1) {
  if (!runs_here(cuda::linear_kernel(kernel), p.dtype())) return;
  CAPTURE(cuda::linear_kernel(kernel).name, name(p.dtype()), p.tokens(), p.rows(), p.cols(), pieces_of_k);
  const std::vector<float> want = p.reference(false).y;
  for (const Way& way : ways(is_held(kernel) ? 75 : 90)) {
    CAPTURE(way.name);
    const std::vector<float> got = p.linear(way, kernel, pieces_of_k);
    CHECK(bit_difference(got, want) == "");
  }
}

std::vector<float> contract(const LinearProblem& p) {
  std::vector<float> y;
  for (int64_t t = 0; t < p.tokens(); ++t)
    for (int64_t n = 0; n < p.rows(); ++n) {
      float v = contract_dot(p.cols(), [&](int64_t k) { return p.x().row(t)[k]; }, [&](int64_t k) { return p.weights().at(n, k); });
      if (p.with_bias) v += p.bias(n);
      v = contract_activation(p.activation, v);
      y.push_back(p.accumulate ? p.before(t * p.rows() + n) + v : v);
    }
  return y;
}

}  // namespace

TEST_CASE("gemm: exact sums at the edges of every tile", "[cuda]") {
  uint64_t seed = 0;
  using Kernels = std::span<const LinearKernel>;
  for (const Kernels& kernels : {Kernels(kAsync), Kernels(kWgmma), Kernels(kHeld)})
    for (LinearKernel kernel : kernels) {
      const cuda::LinearKernelRow& tile = cuda::linear_kernel(kernel);
      const int64_t shapes[][3] = {
          // T, N, K: one element; a tile but for an edge; a tile; a tile and an edge, and enough steps to go round the stages
          {1, 1, 8},
          {tile.tokens - 1, tile.rows - 1, tile.depth - 8},
          {tile.tokens, tile.rows, tile.depth},
          {tile.tokens + 1, tile.rows + 1, (tile.stages + 1) * tile.depth + 8},
      };
      for (const auto& [t, n, k] : shapes) {
        LinearProblem p(is_held(kernel) || ++seed % 2 ? DType::f16 : DType::bf16, t, n, k, Integers{Random(seed)});
        p.activation = seed % 3 == 0 ? Activation::relu : Activation::none;
        p.accumulate = seed % 4 == 1;
        check_exact(p, kernel);
      }
    }
}

TEST_CASE("gemm: splits of K, each with its own tail", "[cuda]") {
  for (LinearKernel kernel : {LinearKernel::gemm_16x64, LinearKernel::gemm_64x64, LinearKernel::wgmma_128x256, LinearKernel::held_16x64})
    for (int splits : {2, 3}) {
      LinearProblem p(DType::f16, 9, 70, 64 * 5 + 24, Integers{Random(static_cast<uint64_t>(splits))});
      p.activation = Activation::relu;
      p.accumulate = true;
      check_exact(p, kernel, splits);
    }
}

TEST_CASE("gemm: no bank conflicts", "[cuda]") {
  for (LinearKernel kernel : kAsync) {
    const cuda::LinearKernelRow& tile = cuda::linear_kernel(kernel);
    CAPTURE(tile.name);
    LinearProblem p(DType::f16, tile.tokens, tile.rows, 2 * tile.depth, Integers{Random(1)});
    const std::unique_ptr<Place> place = open(ways().front());
    p.run(*place, cuda::linear_workspace(p.tokens(), p.rows(), p.cols(), p.dtype(), Arithmetic::fast),
          [&](const LinearArgs& args, std::span<std::byte> workspace, void* stream) {
            return cuda::linear(card_of(90), {.args = args, .forced = cuda::ForcedKernel{kernel}, .workspace = workspace}, stream);
          });
    const std::optional<emu::Statistics> statistics = place->statistics();
    if (!statistics) continue;
    CHECK(statistics->ldmatrix > 0);
    CHECK(statistics->ldmatrix_conflicts == 0);
  }
}

TEST_CASE("gemv: exact sums for 1 to 8 tokens, every cut along K", "[cuda]") {
  for (int64_t t = 1; t <= 8; ++t) {
    const LinearKernel kernel = t == 1 ? LinearKernel::gemv_1 : t == 2 ? LinearKernel::gemv_2 : t <= 4 ? LinearKernel::gemv_4 : LinearKernel::gemv_8;
    const int64_t n = std::vector<int64_t>{1, 3, 4, 5, 15, 16, 17, 35}[static_cast<size_t>(t - 1)];
    const int64_t k = std::vector<int64_t>{8, 248, 256, 264, 1016, 1024, 1032, 1288}[static_cast<size_t>(t - 1)];
    for (int along : {1, 2, 4}) {
      LinearProblem p(t % 2 ? DType::f16 : DType::bf16, t, n, k, Integers{Random(static_cast<uint64_t>(t))});
      p.activation = t % 3 == 0 ? Activation::relu : Activation::none;
      p.accumulate = t % 2 == 0;
      check_exact(p, kernel, along);
    }
  }
}

TEST_CASE("linear on a card agrees with the double reference", "[cuda]") {
  uint64_t seed = 0;
  for (DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const auto& [t, n, k] : {std::array<int64_t, 3>{1, 70, 264}, {3, 33, 512}, {9, 70, 520}, {40, 65, 200}, {70, 130, 136}}) {
      LinearProblem p(dtype, t, n, k, Normals{std::mt19937(static_cast<unsigned>(++seed)), {}});
      p.activation = static_cast<Activation>(seed % 4);
      p.with_bias = seed % 5 != 0;
      p.accumulate = seed % 3 == 0;
      for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order})
        for (int arch : {75, 90}) {
          const cuda::Card card = card_of(arch);
          const bool rounded = cuda::choose(card, {t, n, k, dtype}, arithmetic).rounded_x;
          CAPTURE(name(dtype), t, n, k, arch, static_cast<int>(arithmetic), static_cast<int>(p.activation));
          CHECK(p.compare(p.linear(ways(arch).front(), card, arithmetic), rounded) == "");
        }
    }
}

TEST_CASE("f32 arithmetic on a card gives the bits of the CPU", "[cuda]") {
  uint64_t seed = 10;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const auto& [t, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {1, 33, 63}, {1, 5, 193}, {2, 32, 15}, {4, 31, 16}, {5, 17, 17}, {31, 15, 7},
                                  {33, 18, 40}}) {
      Random random(++seed);
      LinearProblem p(dtype, t, n, k, [&] { return random.value(); }, static_cast<int64_t>(seed % 4), static_cast<int64_t>(seed % 3));
      p.activation = static_cast<Activation>(seed % 4);
      p.with_bias = seed % 3 != 0;
      p.accumulate = seed % 2 != 0;
      if (n > 5) p.pieces = {3, n - 4, 1};
      CAPTURE(name(dtype), t, n, k, static_cast<int>(p.activation));
      for (const Way& way : ways()) CHECK(bit_difference(p.linear(way, card_of(90), Arithmetic::f32), contract(p)) == "");
    }
}

TEST_CASE("K that is no multiple of 8 is computed in f32, from lines of x at any address", "[cuda]") {
  for (DType dtype : {DType::f16, DType::bf16}) {
    LinearProblem p(dtype, 6, 20, 100, Normals{std::mt19937(7), {}}, 1, 3);
    for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order})
      CHECK(bit_difference(p.linear(ways().front(), card_of(90), arithmetic), contract(p)) == "");
    LinearProblem aligned_k(dtype, 3, 20, 104, Normals{std::mt19937(7), {}}, 1, 3);  // x is not aligned, so rounding copies it
    CHECK(aligned_k.compare(aligned_k.linear(ways().front(), card_of(90), Arithmetic::fast), true) == "");
  }
}

TEST_CASE("row blocks: tiles span them, and only the columns that they cover are touched", "[cuda]") {
  for (LinearKernel kernel :
       {LinearKernel::wgmma_128x256, LinearKernel::gemm_128x128, LinearKernel::gemm_16x32,
        LinearKernel::gemv_4, LinearKernel::f32_4, LinearKernel::held_64x64})
    for (int pieces_of_k : {1, 2}) {
      const bool f32 = cuda::linear_kernel(kernel).family == LinearFamily::f32;
      if ((f32 && pieces_of_k > 1) || !runs_here(cuda::linear_kernel(kernel), DType::f16)) continue;
      CAPTURE(cuda::linear_kernel(kernel).name, pieces_of_k);
      LinearProblem p(DType::f16, 4, 100, 512, Integers{Random(5)});
      p.pieces = {-3, 5, 1, 2, -20, 17, 30, -1, 4, -10, 7};
      const std::vector<float> want = p.reference(false).y;
      const std::vector<float> got = p.linear(ways(is_held(kernel) ? 75 : 90).front(), kernel, pieces_of_k, 1);
      int64_t row = 0;
      for (int64_t piece : p.pieces) {
        for (int64_t n = row; n < row + std::abs(piece); ++n)
          for (int64_t t = 0; t < 4; ++t) {
            const auto i = static_cast<size_t>(t * 100 + n);
            if (piece > 0) CHECK(got[i] == want[i]);
            else CHECK(GuardedMatrix::is_sentinel(got[i]));
          }
        row += std::abs(piece);
      }
    }
}

TEST_CASE("more row blocks than a launch takes", "[cuda]") {
  for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order, Arithmetic::f32}) {
    LinearProblem p(DType::bf16, 3, 150, 40, Integers{Random(6)});
    p.pieces.clear();
    for (int i = 0; i < 140; ++i) p.pieces.push_back(1);
    p.pieces.push_back(10);
    CHECK(bit_difference(p.linear(ways().front(), card_of(80), arithmetic), p.reference(false).y) == "");
  }
}

// One token's line of y, computed alone, in batches that take other tiles, with the rows cut otherwise, on cards of another size
TEST_CASE("one order: a token's bits depend neither on the batch, nor on the cut, nor on the card's size", "[cuda]") {
  for (DType dtype : {DType::f16, DType::bf16}) {
    constexpr int64_t kTokens = 70, kRows = 90, kCols = 360;
    LinearProblem all(dtype, kTokens, kRows, kCols, Normals{std::mt19937(9), {}});
    all.activation = Activation::gelu_tanh;
    all.accumulate = true;
    const std::vector<float> whole = all.linear(ways().front(), card_of(90), Arithmetic::one_order);
    CHECK(all.compare(whole, true) == "");
    for (LinearKernel kernel : kAsync) {
      if (!runs_here(cuda::linear_kernel(kernel), dtype)) continue;
      CAPTURE(cuda::linear_kernel(kernel).name);
      CHECK(bit_difference(all.linear(ways().front(), kernel), whole) == "");
    }
    for (int sms : {4, 40, 400}) {
      all.pieces = {17, 3, kRows - 20};
      CHECK(bit_difference(all.linear(ways().front(), card_of(80, sms), Arithmetic::one_order), whole) == "");
    }
    for (int64_t n_tok : {1, 2, 9, 17, 33})
      for (int64_t first : {int64_t{0}, kTokens - n_tok}) {
        const size_t bytes = cuda::linear_workspace(n_tok, kRows, kCols, dtype, Arithmetic::one_order);
        const std::vector<float> some = all.run(ways().front(), bytes, [&](LinearArgs args, std::span<std::byte> workspace, void* stream) {
          args.x = args.x.rows_from(first, n_tok);
          args.y = args.y.rows_from(first, n_tok);
          return cuda::linear(card_of(90), {.args = args, .arithmetic = Arithmetic::one_order, .workspace = workspace}, stream);
        });
        CAPTURE(n_tok, first);
        const auto at = static_cast<size_t>(first * kRows), size = static_cast<size_t>(n_tok * kRows);
        CHECK(bit_difference(std::span(some).subspan(at, size), std::span(whole).subspan(at, size)) == "");
      }
  }
}

TEST_CASE("linear on a card of nothing does nothing, and of no inputs gives the bias", "[cuda]") {
  for (DType dtype : {DType::f16, DType::f32})
    for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order}) {
      LinearProblem no_tokens(dtype, 0, 5, 16, Integers{Random(1)}), no_blocks(dtype, 2, 5, 16, Integers{Random(1)});
      CHECK(no_tokens.linear(ways().front(), card_of(90), arithmetic).empty());
      no_blocks.pieces = {};
      for (float f : no_blocks.linear(ways().front(), card_of(90), arithmetic)) CHECK(GuardedMatrix::is_sentinel(f));
      for (int64_t t : {1, 20}) {
        LinearProblem no_k(dtype, t, 5, 0, Integers{Random(2)});
        const std::vector<float> got = no_k.linear(ways().front(), card_of(90), arithmetic);
        for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == no_k.bias(static_cast<int64_t>(i % 5)));
      }
    }
}

TEST_CASE("x rounded once serves several calls", "[cuda]") {
  LinearProblem p(DType::bf16, 20, 33, 72, Normals{std::mt19937(3), {}});
  p.pieces = {16, 17};
  const std::vector<float> want = p.linear(ways().front(), card_of(90), Arithmetic::one_order);
  const size_t bytes = cuda::linear_workspace(20, 33, 72, DType::bf16, Arithmetic::one_order);
  const std::vector<float> got = p.run(ways().front(), bytes, [&](LinearArgs args, std::span<std::byte> workspace, void* stream) {
    const std::vector<RowBlock> blocks(args.w.blocks.begin(), args.w.blocks.end());
    bool x_ready = false;
    for (const RowBlock& block : blocks) {
      args.w.blocks = {&block, 1};
      const cuda::LinearCall call{.args = args, .arithmetic = Arithmetic::one_order, .workspace = workspace, .x_ready = &x_ready};
      const int error = cuda::linear(card_of(90), call, stream);
      if (error || !x_ready) return error ? error : -1;
      args.x.data = reinterpret_cast<const float*>(alignof(float));  // no longer read
    }
    return 0;
  });
  CHECK(bit_difference(got, want) == "");
}

TEST_CASE("rounding of x is the CPU's, with zeros behind K", "[cuda]") {
  Random random(8);
  for (DType dtype : {DType::f16, DType::bf16})
    for (int64_t k : {1, 7, 8, 1025}) {
      GuardedMatrix x = GuardedMatrix::input(3, k, random);
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t i = 0; i < k; ++i) x.view().row(t)[i] *= 1000;
      struct alignas(16) Line { uint16_t values[8]; };
      const auto padded = static_cast<size_t>(cuda::padded_cols(k));
      std::vector<Line> to(3 * padded / 8);
      std::memset(to.data(), 0xFF, cuda::rounded_x_bytes(3, k));
      const std::unique_ptr<Place> place = open(ways().front());
      const MatView<const float> there{place->input(x.view().data, static_cast<size_t>(2 * x.view().stride + k), "x"), 3, k, x.view().stride};
      Line* const to_there = place->output(to, "rounded x");
      REQUIRE(place->run([&](void* stream) { return cuda::round_x(there, dtype, to_there, stream); }) == 0);
      for (int64_t t = 0; t < 3; ++t)
        for (size_t i = 0; i < padded; ++i) {
          std::byte want[4] = {};
          if (static_cast<int64_t>(i) < k) store_element(dtype, want, 0, x.view().row(t)[i]);
          CHECK(std::memcmp(to[static_cast<size_t>(t) * padded / 8 + i / 8].values + i % 8, want, 2) == 0);
        }
    }
}

TEST_CASE("linear on a card refuses what it cannot take", "[cuda]") {
  LinearProblem p(DType::f16, 20, 8, 64, Integers{Random(1)});
  p.run(ways().front(), 0, [&](LinearArgs args, std::span<std::byte>, void* stream) {
    CHECK_FAULT(cuda::linear(card_of(90), {.args = args}, stream), Fault::internal, "workspace of 0 bytes, 2560 needed");
    RowBlock block = args.w.blocks[0];
    block.data += 2;
    args.w.blocks = {&block, 1};
    CHECK_FAULT(cuda::linear(card_of(90), {.args = args}, stream), Fault::internal, "row block of row 0 is not 16-byte aligned");
    return 0;
  });
}
