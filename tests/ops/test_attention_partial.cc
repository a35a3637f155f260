// SPDX-License-Identifier: Apache-2.0
#include "flexgen/ops/attention_partial.h"

#include <limits>
#include <vector>

#include "kernels/registry.h"
#include "support/compare.h"
#include "support/errors.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// A filled cache of one sequence and queries for its last n_tok positions
struct PartedSequence {
  KvLayout layout;
  int64_t n, n_tok, n_heads;
  GuardedMatrix q, k, v;
  PagedCache cache;
  ThreadPool pool{2};

  PartedSequence(DType dtype, int64_t positions, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t d, Random& random)
      : layout{dtype, kv_heads, d, 64}, n(positions), n_tok(tokens), n_heads(heads), q(GuardedMatrix::input(tokens, heads * d, random)),
        k(GuardedMatrix::input(n, kv_heads * d, random)), v(GuardedMatrix::input(n, kv_heads * d, random)), cache(layout, positions) {
    const KvSpan whole[] = {cache.span(0, n, 0)};
    kv_append(*backends().back(), {k.view(), v.view(), layout, whole}, {&pool});
  }
  int64_t d() const { return layout.head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(d())); }
  KvSpan span() const { return cache.span(0, n_tok, n - n_tok); }

  std::vector<float> whole(const Backend& b) {
    GuardedMatrix y = GuardedMatrix::output(n_tok, n_heads * d());
    const KvSpan spans[] = {span()};
    attention(b, {q.view(), y.view(), n_heads, scale(), layout, spans}, {&pool});
    return y.values();
  }
};

// Its span, with page tables that hold nothing but what lies in the range
struct RangeSpan {
  KvSpan span;
  std::vector<std::byte*> k, v;

  RangeSpan(const PartedSequence& s, PositionRange range) : span(s.span()) {
    for (int64_t page = 0; page * s.layout.page_tokens < s.n; ++page) {
      const bool there = page * s.layout.page_tokens < range.end && (page + 1) * s.layout.page_tokens > range.begin;
      k.push_back(there ? span.k_pages[page] : nullptr), v.push_back(there ? span.v_pages[page] : nullptr);
    }
    span.k_pages = k.data(), span.v_pages = v.data();
  }
};

// Parts of a batch and their memory
struct Part {
  GuardedMatrix o, maximum, sum;

  Part(int64_t tokens, int64_t heads, int64_t d)
      : o(GuardedMatrix::output(tokens, heads * d)), maximum(GuardedMatrix::output(tokens, heads)), sum(GuardedMatrix::output(tokens, heads)) {}
  AttentionPartials view() { return {o.view(), maximum.view(), sum.view()}; }
};

Part part_of(PartedSequence& s, const Backend& b, PositionRange range) {
  Part part(s.n_tok, s.n_heads, s.d());
  const RangeSpan there(s, range);
  attention_partial(b,
                    {s.q.view(), part.o.view(), part.maximum.view(), part.sum.view(), s.n_heads, s.scale(), s.layout, {&there.span, 1}, {&range, 1}},
                    {&s.pool});
  CHECK(part.o.intact());
  CHECK(part.maximum.intact());
  CHECK(part.sum.intact());
  return part;
}

// `before` the range, which is [begin, end)
std::vector<float> after(PartedSequence& s, const Backend& b, Part* before, PositionRange range) {
  GuardedMatrix y = GuardedMatrix::output(s.n_tok, s.n_heads * s.d());
  const RangeSpan there(s, range);
  const AttentionPartials view = before ? before->view() : AttentionPartials{};
  attention(b, {s.q.view(), y.view(), s.n_heads, s.scale(), s.layout, {&there.span, 1}, {&range, 1}, before ? &view : nullptr}, {&s.pool});
  CHECK(y.intact());
  return y.values();
}

std::vector<float> merged(PartedSequence& s, const Backend& b, const std::vector<int64_t>& cuts) {
  Part all = part_of(s, b, {0, cuts.front()});
  for (size_t i = 0; i < cuts.size(); ++i) merge(all.view(), part_of(s, b, {cuts[i], i + 1 < cuts.size() ? cuts[i + 1] : s.n}).view(), s.d());
  GuardedMatrix y = GuardedMatrix::output(s.n_tok, s.n_heads * s.d());
  finish(all.view(), s.d(), y.view());
  return y.values();
}

}  // namespace

TEST_CASE("parts of attention merge to the whole: the contract's bits where later parts are blocks", "[ops]") {
  Random random(51);
  struct Shape { int64_t n, n_tok, heads, kv_heads, d; };
  for (DType dtype : {DType::f32, DType::f16})
    for (const Shape& shape : {Shape{33, 1, 2, 2, 64}, Shape{200, 1, 4, 2, 80}, Shape{150, 3, 2, 1, 32}, Shape{131, 40, 2, 2, 16}}) {
      PartedSequence s(dtype, shape.n, shape.n_tok, shape.heads, shape.kv_heads, shape.d, random);
      for (const Backend* b : backends()) {
        CAPTURE(name(dtype), shape.n, shape.n_tok, shape.d, std::string(b->name));
        const std::vector<float> whole = s.whole(*b);
        std::vector<int64_t> blocks;
        for (int64_t at = random.between(1, s.n / 32) * 32; at <= s.n; at += 32) blocks.push_back(at);
        const std::vector<float> by_blocks = merged(s, *b, blocks), in_two = merged(s, *b, {random.between(0, s.n / 32) * 32}),
                                 in_three = merged(s, *b, {32, random.between(1, s.n / 32) * 32});
        if (b->name != "ref") CHECK(bit_difference(by_blocks, whole) == "");
        double largest = 0;
        for (float f : s.v.values()) largest = std::max(largest, static_cast<double>(std::abs(f)));
        for (const auto* parts : {&by_blocks, &in_two, &in_three}) CHECK(difference(*parts, whole, Tolerance{1e-6 * largest, 0}) == "");
      }
    }
}

TEST_CASE("a range that a token does not see is an empty part, which changes nothing", "[ops]") {
  Random random(52);
  PartedSequence s(DType::f16, 96, 40, 2, 1, 32, random);  // tokens 56 .. 95
  for (const Backend* b : backends()) {
    CAPTURE(std::string(b->name));
    Part last = part_of(s, *b, {64, 96}), behind = part_of(s, *b, {96, 200}), nothing = part_of(s, *b, {32, 32});
    for (int64_t t = 0; t < 40; ++t)
      for (int64_t h = 0; h < 2; ++h) {
        const bool sees = 56 + t >= 64;
        CHECK((*at(last.view(), t, h, 32).maximum == kNone) == !sees);
        CHECK((*at(last.view(), t, h, 32).sum == 0) == !sees);
        for (Part* p : {&behind, &nothing}) {
          const AttentionPartial one = at(p->view(), t, h, 32);
          CHECK((*one.maximum == kNone && *one.sum == 0));
          for (int64_t d = 0; d < 32; ++d) CHECK(one.o[d] == 0);
        }
      }
    const std::vector<float> before = last.o.values(), sums = last.sum.values();
    merge(last.view(), behind.view(), 32);
    CHECK(bit_difference(last.o.values(), before) == "");
    CHECK(bit_difference(last.sum.values(), sums) == "");
    merge(nothing.view(), last.view(), 32);  // the first part that holds anything is taken as it is
    CHECK(bit_difference(nothing.o.values(), before) == "");
  }
}

TEST_CASE("attention takes up what was attended in front of its range: the bits of attention over all", "[ops]") {
  Random random(53);
  struct Shape { int64_t n, n_tok, heads, kv_heads, d; };
  for (DType dtype : {DType::f32, DType::f16})
    for (const Shape& shape : {Shape{200, 1, 4, 2, 80}, Shape{150, 3, 2, 1, 32}, Shape{131, 70, 2, 2, 16}, Shape{97, 2, 3, 3, 5}}) {
      PartedSequence s(dtype, shape.n, shape.n_tok, shape.heads, shape.kv_heads, shape.d, random);
      double largest = 0;
      for (float f : s.v.values()) largest = std::max(largest, static_cast<double>(std::abs(f)));
      for (const Backend* b : backends()) {
        const std::vector<float> whole = s.whole(*b);
        for (int64_t cut = 0; cut <= s.n + 31; cut += 32) {  // the last ones: everything was in front
          CAPTURE(name(dtype), shape.n, shape.n_tok, shape.d, std::string(b->name), cut);
          Part before = part_of(s, *b, {0, cut});
          const std::vector<float> y = after(s, *b, &before, {cut, std::max(cut, s.n)});
          if (b->name != "ref") CHECK(bit_difference(y, whole) == "");
          CHECK(difference(y, whole, Tolerance{1e-6 * largest, 0}) == "");
        }
        CHECK(bit_difference(after(s, *b, nullptr, {0, s.n + 5}), whole) == "");
        if (b->name == "ref") continue;
        // without what lies in front: as if the sequence began there
        const int64_t late = (s.n - s.n_tok) / 32 * 32;
        Part tail = part_of(s, *b, {late, s.n});
        GuardedMatrix y = GuardedMatrix::output(s.n_tok, s.n_heads * s.d());
        finish(tail.view(), s.d(), y.view());
        CHECK(bit_difference(after(s, *b, nullptr, {late, s.n}), y.values()) == "");
      }
    }
}

TEST_CASE("attention_merge is merge and finish of the parts, of any number and with strides", "[ops]") {
  Random random(54);
  for (int64_t d : {5, 16, 80}) {
    PartedSequence s(DType::f32, 170, 50, 3, 3, d, random);  // tokens 120 .. 169: the first ones do not see the last part
    for (const Backend* b : backends()) {
      CAPTURE(d, std::string(b->name));
      for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{0, 200}, {0, 64, 200}, {0, 0, 32, 128, 160, 200}}) {
        std::vector<Part> parts;
        for (size_t i = 0; i + 1 < cuts.size(); ++i) parts.push_back(part_of(s, *b, {cuts[i], cuts[i + 1]}));
        std::vector<AttentionPartials> views;
        for (Part& p : parts) views.push_back(p.view());
        GuardedMatrix y = GuardedMatrix::output(s.n_tok, s.n_heads * d), want = GuardedMatrix::output(s.n_tok, s.n_heads * d);
        const std::vector<float> first = parts[0].o.values();
        attention_merge(*b, {views, y.view(), s.n_heads, d}, {&s.pool});
        CHECK(y.intact());
        CHECK(bit_difference(parts[0].o.values(), first) == "");
        for (size_t i = 1; i < views.size(); ++i) merge(views[0], views[i], d);
        finish(views[0], d, want.view());
        if (b->name != "ref") CHECK(bit_difference(y.values(), want.values()) == "");
        CHECK(difference(y.values(), want.values(), Tolerance{1e-5, 1e-5}) == "");
      }
    }
  }
}

TEST_CASE("attention and attention_merge refuse parts that contradict their operands", "[ops]") {
  ThreadPool pool(1);
  float f[64] = {};
  const KvSpan span{0, 1, 0, reinterpret_cast<std::byte* const*>(f), reinterpret_cast<std::byte* const*>(f)};
  const auto run = [&](std::vector<PositionRange> ranges, const AttentionPartials& before) {
    attention(backend("ref"), {{f, 1, 4, 4}, {f + 8, 1, 4, 4}, 2, 1, {DType::f32, 2, 2, 32}, {&span, 1}, ranges, &before}, {&pool});
  };
  const AttentionPartials right{{f, 1, 4, 4}, {f, 1, 2, 2}, {f, 1, 2, 2}}, wide{{f, 1, 6, 6}, {f, 1, 2, 2}, {f, 1, 2, 2}};
  CHECK_FAULT(run({{0, 32}, {0, 32}}, right), Fault::internal, "2 ranges for 1 spans");
  CHECK_FAULT(run({{1, 32}}, right), Fault::internal, "positions [1, 32)");
  CHECK_FAULT(run({}, wide), Fault::internal, "o 1 x 6, 1 tokens, 2 heads of 2");
  CHECK_FAULT(run({}, {{f, 1, 4, 4}, {f, 1, 3, 3}, {f, 1, 3, 3}}), Fault::internal, "maximum 1 x 3, stride 3");
  const auto merge_of = [&](std::vector<AttentionPartials> parts, int64_t heads) {
    attention_merge(backend("ref"), {parts, {f + 8, 1, 4, 4}, heads, 2}, {&pool});
  };
  CHECK_FAULT(merge_of({}, 2), Fault::internal, "0 parts, y 1 x 4, 2 heads of 2");
  CHECK_FAULT(merge_of({right}, 1), Fault::internal, "1 parts, y 1 x 4, 1 heads of 2");
  CHECK_FAULT(merge_of({right, wide}, 2), Fault::internal, "o 1 x 6");
}

TEST_CASE("parts merge as the formula says", "[ops]") {
  float o[2] = {1, 2}, m = 0, l = 4, next_o[2] = {8, 16}, next_m = 0, next_l = 12;
  const AttentionPartial sofar{o, &m, &l}, next{next_o, &next_m, &next_l};
  merge(sofar, next, 2);
  CHECK((o[0] == 9 && o[1] == 18 && m == 0 && l == 16));
  float y[2];
  finish(sofar, 2, y);
  CHECK((y[0] == 9.0f / 16 && y[1] == 18.0f / 16));
  next_m = 1000;  // takes all
  merge(sofar, next, 2);
  CHECK((o[0] == 8 && o[1] == 16 && m == 1000 && l == 12));
  next_m = -1000;
  merge(sofar, next, 2);
  CHECK((o[0] == 8 && o[1] == 16 && m == 1000 && l == 12));
  clear(sofar, 2);
  CHECK((o[0] == 0 && o[1] == 0 && m == kNone && l == 0));
  merge(next, sofar, 2);
  CHECK((next_o[0] == 8 && next_m == -1000 && next_l == 12));
}

TEST_CASE("attention_partial refuses ranges and results that contradict its operands", "[ops]") {
  ThreadPool pool(1);
  float f[64] = {};
  const KvSpan span{0, 1, 0, reinterpret_cast<std::byte* const*>(f), reinterpret_cast<std::byte* const*>(f)};
  const auto run = [&](std::vector<PositionRange> ranges, int64_t heads, int64_t stride) {
    attention_partial(
        backend("ref"),
        {{f, 1, 4, 4}, {f + 8, 1, 4, 4}, {f + 16, 1, heads, heads}, {f + 24, 1, heads, stride}, 2, 1, {DType::f32, 2, 2, 32}, {&span, 1}, ranges},
        {&pool});
  };
  CHECK_FAULT(run({}, 2, 2), Fault::internal, "0 ranges for 1 spans");
  CHECK_FAULT(run({{16, 64}}, 2, 2), Fault::internal, "positions [16, 64)");
  CHECK_FAULT(run({{64, 32}}, 2, 2), Fault::internal, "positions [64, 32)");
  CHECK_FAULT(run({{0, 32}}, 1, 1), Fault::internal, "maximum 1 x 1, stride 1, sum 1 x 1, stride 1, 1 tokens, 2 heads");
  CHECK_FAULT(run({{0, 32}}, 2, 3), Fault::internal, "sum 1 x 2, stride 3");
  float a[2] = {}, b[4] = {}, m[2] = {};
  CHECK_FAULT(merge(AttentionPartials{{a, 1, 2, 2}, {m, 1, 1, 1}, {m, 1, 1, 1}}, AttentionPartials{{b, 1, 4, 4}, {m, 1, 1, 1}, {m, 1, 1, 1}}, 2),
              Fault::internal, "parts of 1 x 2 and 1 x 4, 1 heads of 2");
}
