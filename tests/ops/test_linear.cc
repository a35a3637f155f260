// SPDX-License-Identifier: Apache-2.0
// linear: every backend against the reference within a computed tolerance, and every f32 backend against the written-out contract
// bit by bit, whatever the tokens, threads, row blocks and strides.
#include "kernels/registry.h"

#include "support/catch.h"
#include "support/compare.h"
#include "support/contract.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};

struct Problem {
  GuardedMatrix x;
  BlockedWeight w;
  std::vector<float> bias;
  std::vector<float> before;  // y, for accumulate
  Activation activation = Activation::none;
  bool with_bias = true, accumulate = false;
  int64_t t, n, k;

  Problem(DType dtype, int64_t tokens, int64_t rows, int64_t cols, Random& random)
      : x(GuardedMatrix::input(tokens, cols, random)), w(dtype, rows, cols, random), t(tokens), n(rows), k(cols) {
    for (int64_t i = 0; i < n; ++i) bias.push_back(random.value());
    for (int64_t i = 0; i < t * n; ++i) before.push_back(random.value());
  }

  GuardedMatrix output() {
    GuardedMatrix y = GuardedMatrix::output(t, n);
    if (accumulate)
      for (int64_t i = 0; i < t; ++i)
        for (int64_t j = 0; j < n; ++j) y.view().row(i)[j] = before[static_cast<size_t>(i * n + j)];
    return y;
  }
  LinearArgs args(MatView<float> y, const WeightView& view) { return {x.view(), view, with_bias ? bias.data() : nullptr, y, activation, accumulate}; }

  std::vector<float> run(const Backend& b, ThreadPool& pool, const std::vector<int64_t>& pieces) {
    GuardedMatrix y = output();
    linear(b, args(y.view(), w.cut(pieces)), {&pool});
    CHECK(y.intact());
    return y.values();
  }
  std::vector<float> contract() {
    std::vector<float> out;
    for (int64_t i = 0; i < t; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const float* row = x.view().row(i);
        float v = contract_dot(k, [&](int64_t e) { return row[e]; }, [&](int64_t e) { return w.at(j, e); });
        if (with_bias) v += bias[static_cast<size_t>(j)];
        v = contract_activation(activation, v);
        out.push_back(accumulate ? before[static_cast<size_t>(i * n + j)] + v : v);
      }
    return out;
  }
  // |error| <= (K/16 + 8) 2^-24 sum|x||w| of the dot product (its longest chain of roundings), a few roundings behind it; the
  // derivative of every activation is below 1.13
  Tolerance tolerance(size_t i) {
    const auto row = static_cast<int64_t>(i) / n, col = static_cast<int64_t>(i) % n;
    double sum = with_bias ? std::abs(static_cast<double>(bias[static_cast<size_t>(col)])) : 0.0;
    for (int64_t e = 0; e < k; ++e) sum += std::abs(static_cast<double>(x.view().row(row)[e]) * static_cast<double>(w.at(col, e)));
    return {
        1.13 * (static_cast<double>(k) / 16 + 8) * 0x1p-24 * sum + (accumulate ? std::abs(static_cast<double>(before[i])) * 0x1p-24 : 0.0) + 0x1p-149,
        0x1p-22};
  }
};

}  // namespace

TEST_CASE("linear agrees with the reference and with the contract's bits on every backend", "[ops]") {
  Random random(1);
  ThreadPool one(1), three(3);
  for (DType dtype : kDTypes)
    for (int round = 0; round < 14; ++round) {
      const int64_t ts[] = {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 18, 31, 64, 70};
      const int64_t ks[] = {1, 15, 16, 17, 80, 383, 384, 385, 1040, 2 * 384 + 37};
      const int64_t ns[] = {1, 3, 6, 12, 15, 16, 17, 47, 49, 65, 131};
      Problem p(dtype, ts[round], ns[random.below(11)], ks[random.below(10)], random);
      p.activation = static_cast<Activation>(random.below(4));
      p.with_bias = random.below(3) != 0;
      p.accumulate = random.below(2) != 0;
      CAPTURE(name(dtype), p.t, p.n, p.k, static_cast<int>(p.activation), p.with_bias, p.accumulate);
      const std::vector<float> contract = p.contract(), ref = p.run(*backends().back(), one, {p.n});
      CHECK(difference(contract, ref, [&](size_t i) { return p.tolerance(i); }) == "");
      for (const Backend* b : backends()) {
        if (b->name == "ref") continue;
        CAPTURE(std::string(b->name));
        CHECK(bit_difference(p.run(*b, one, {p.n}), contract) == "");
        const int64_t cut = random.between(0, p.n), first = random.between(0, cut);
        CHECK(bit_difference(p.run(*b, three, {first, cut - first, p.n - cut}), contract) == "");
      }
    }
}

TEST_CASE("linear gives a token the same bits in every micro-batch", "[ops]") {
  Random random(2);
  ThreadPool pool(2);
  for (DType dtype : kDTypes) {
    Problem p(dtype, 70, 37, 1100, random);
    for (const Backend* b : backends()) {
      if (b->name == "ref") continue;
      CAPTURE(name(dtype), std::string(b->name));
      const std::vector<float> whole = p.run(*b, pool, {p.n});
      for (int64_t first = 0; first < p.t;) {
        const int64_t n_tok = std::min(p.t - first, random.between(1, 20));
        GuardedMatrix y = GuardedMatrix::output(n_tok, p.n);
        LinearArgs a = p.args(y.view(), p.w.whole());
        a.x = a.x.rows_from(first, n_tok);
        linear(*b, a, {&pool});
        CHECK(bit_difference(y.values(), std::span(whole).subspan(static_cast<size_t>(first * p.n), static_cast<size_t>(n_tok * p.n))) == "");
        first += n_tok;
      }
    }
  }
}

TEST_CASE("linear of many tokens equals linear of each: token chunks change nothing", "[ops]") {
  Random random(3);
  ThreadPool pool(2);
  Problem p(DType::f16, 150, 21, 50, random);
  for (const Backend* b : backends())
    if (b->name != "ref") CHECK(bit_difference(p.run(*b, pool, {p.n}), p.contract()) == "");
}

TEST_CASE("linear of many inputs goes through them in passes, of many rows in groups", "[ops]") {
  Random random(7);
  ThreadPool pool(1);
  for (DType dtype : {DType::f32, DType::f16}) {
    Problem p(dtype, 50, 50, 384 * 15 + 21, random);
    p.accumulate = true;
    const std::vector<float> contract = p.contract();
    for (const Backend* b : backends())
      if (b->name != "ref") CHECK(bit_difference(p.run(*b, pool, {p.n}), contract) == "");
  }
}

TEST_CASE("linear takes an x with an id for the one that had this id, and no other", "[ops]") {
  Random random(8);
  ThreadPool pool(2);
  for (const Backend* b : backends()) {
    if (b->name == "ref") continue;
    CAPTURE(std::string(b->name));
    Problem p(DType::f16, 20, 40, 400, random), other(DType::f16, 20, 40, 400, random), longer(DType::f16, 21, 40, 800, random);
    const auto rows = [&](Problem& of, GuardedMatrix& y, const std::vector<int64_t>& pieces, uint64_t x_id) {
      LinearArgs a = of.args(y.view(), of.w.cut(pieces));
      a.x_id = x_id;
      linear(*b, a, {&pool});
    };
    const uint64_t ids = new_x_ids(3);
    CHECK(new_x_ids() >= ids + 3);
    for (int round = 0; round < 2; ++round) {
      // the rows of one x in two calls, with calls for others in between in the second round
      GuardedMatrix y = p.output(), y_other = other.output(), y_longer = longer.output();
      rows(p, y, {15, -25}, ids);
      if (round == 1) {
        rows(other, y_other, {40}, ids + 1);
        rows(longer, y_longer, {40}, ids + 2);
        CHECK(bit_difference(y_other.values(), other.contract()) == "");
        CHECK(bit_difference(y_longer.values(), longer.contract()) == "");
      }
      rows(p, y, {-15, 25}, ids);
      CHECK(bit_difference(y.values(), p.contract()) == "");
    }
    // another content at the same place: under a new id, under none, and under none again
    for (uint64_t id : {new_x_ids(), uint64_t{0}, uint64_t{0}}) {
      p.x.view().row(19)[399] += 1;
      GuardedMatrix y = p.output();
      rows(p, y, {40}, id);
      CHECK(bit_difference(y.values(), p.contract()) == "");
    }
  }
}

TEST_CASE("linear touches only the columns that its row blocks cover", "[ops]") {
  Random random(4);
  ThreadPool pool(2);
  for (int64_t t : {2, 9}) {
    Problem p(DType::bf16, t, 50, 64, random);
    const std::vector<float> contract = p.contract();
    for (const Backend* b : backends()) {
      CAPTURE(t, std::string(b->name));
      const std::vector<float> got = p.run(*b, pool, {-3, 5, -20, 17, -5});
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t n = i % 50;
        const bool covered = (n >= 3 && n < 8) || (n >= 28 && n < 45);
        CHECK(GuardedMatrix::is_sentinel(got[i]) == !covered);
        if (covered && b->name != "ref") CHECK(std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(contract[i]));
      }
    }
  }
}

TEST_CASE("linear of nothing does nothing, and of no inputs gives the bias", "[ops]") {
  Random random(5);
  ThreadPool pool(2);
  for (const Backend* b : backends()) {
    CAPTURE(std::string(b->name));
    Problem empty(DType::f32, 0, 5, 16, random), no_k(DType::f32, 7, 5, 0, random), no_blocks(DType::f32, 2, 5, 16, random);
    CHECK(empty.run(*b, pool, {5}).empty());
    for (float f : no_blocks.run(*b, pool, {})) CHECK(GuardedMatrix::is_sentinel(f));
    const std::vector<float> got = no_k.run(*b, pool, {5});
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == no_k.bias[i % 5]);
  }
}

TEST_CASE("linear passes infinities and NaN on to their own rows and columns only", "[ops]") {
  Random random(6);
  ThreadPool pool(1);
  for (int64_t t : {3, 8}) {
    Problem p(DType::f32, t, 20, 53, random);
    p.x.view().row(1)[52] = INFINITY;
    p.x.view().row(2)[0] = std::nanf("");
    const std::vector<float> contract = p.contract();
    for (const Backend* b : backends())
      if (b->name != "ref") CHECK(bit_difference(p.run(*b, pool, {20}), contract) == "");
    for (size_t i = 0; i < 20; ++i) {
      CHECK(std::isfinite(contract[i]));
      CHECK_FALSE(std::isfinite(contract[20 + i]));
      CHECK(std::isnan(contract[40 + i]));
    }
  }
}
