// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores: exact inputs first, then normal numbers against the reference in double, at every edge of its tiles.
#include "cuda/attention_case.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

int32_t rows_of(cuda::PrefillTiles tiles) { return cuda::kPrefillTiles[static_cast<size_t>(tiles)].rows; }

std::vector<float> prefilled(AttentionCase& c, cuda::PrefillTiles tiles, cuda::Split split, int64_t resident, const Way& way) {
  cuda::PlanRequest request;
  request.group = c.group(), request.kv_heads = static_cast<int32_t>(c.layout.n_heads), request.rows = rows_of(tiles);
  request.resident = resident, request.split = split;
  const cuda::AttentionPlan plan = plan_attention(c.planned(), request);
  PartMemory parts(plan.part_rows, c);
  c.clear();
  const std::unique_ptr<Place> place = open(way);
  PlannedAttention planned(*place, c, plan, parts);
  REQUIRE(place->run([&](void* stream) {
    const int error = cuda::attention_prefill(planned.attention, tiles, stream);
    return error ? error : cuda::attention_merge(planned.merge, stream);
  }) == 0);
  if (const std::optional<emu::Statistics> counted = place->statistics()) CHECK(counted->ldmatrix_conflicts == 0);
  return c.y;
}

constexpr cuda::PrefillTiles kTall = cuda::PrefillTiles::rows_128_keys_64, kSquare = cuda::PrefillTiles::rows_64_keys_64,
                             kNarrow = cuda::PrefillTiles::rows_64_keys_32, kFlat = cuda::PrefillTiles::rows_16_keys_32;

}  // namespace

TEST_CASE("CUDA prefill attention, exact inputs: equal scores give means, a dominating key its value", "[cuda]") {
  for (cuda::PrefillTiles tiles : {kTall, kSquare, kNarrow, kFlat})
    for (const Way& way : ways()) {
      CAPTURE(static_cast<int>(tiles), way.name);
      // queries are 0, so a token sees all positions alike; v[p][d] = d + p % 2 has the mean d + 1/2 where the count is even
      AttentionCase c(DType::f16, 2, 1, 64, 32, {{200, 133}});
      c.fill([] { return 0.0f; });
      for (int64_t p = 0; p < 200; ++p)
        for (int64_t d = 0; d < 64; ++d) c.set(0, false, 0, p, d, static_cast<float>(d + p % 2));
      const std::vector<float> means = prefilled(c, tiles, cuda::Split::none, 1, way);
      for (int64_t t = 0; t < 133; ++t)
        for (int64_t e = 0; e < 128; ++e) {
          const int64_t seen = 67 + t + 1;
          const auto mean = static_cast<float>(seen * (e % 64) + seen / 2) / static_cast<float>(seen);
          CHECK(means[static_cast<size_t>(t * 128 + e)] == mean);
        }
      // key p points where only the query of token p - 67 looks: one-hot rows; values name their position and column
      c.fill([] { return 0.0f; });
      for (int64_t p = 0; p < 200; ++p) {
        c.set(0, true, 0, p, p % 64, static_cast<float>(1 + p / 64) * 16);
        for (int64_t d = 0; d < 64; ++d) c.set(0, false, 0, p, d, static_cast<float>(p * 8 + d % 8));
      }
      for (int64_t t = 0; t < 133; ++t)
        for (int64_t h = 0; h < 2; ++h) c.q[static_cast<size_t>((t * 2 + h) * 64 + (67 + t) % 64)] = 100;  // both heads read the one KV head
      const std::vector<float> picked = prefilled(c, tiles, cuda::Split::none, 1, way);
      for (int64_t t = 0; t < 133; ++t)
        for (int64_t e = 0; e < 128; ++e) CHECK(picked[static_cast<size_t>(t * 128 + e)] == static_cast<float>((67 + t) * 8 + e % 8));
    }
}

TEST_CASE("CUDA prefill attention agrees with the reference: head sizes, groups, pages, ragged spans", "[cuda]") {
  struct Shape { int64_t heads, kv_heads, d, page; cuda::PrefillTiles tiles; std::vector<SequenceShape> sequences; };
  const Shape shapes[] = {
      {2, 2, 64, 32, kTall, {{129, 129}, {1, 1}, {300, 127}}},
      {2, 2, 64, 64, kSquare, {{63, 63}, {64, 64}, {65, 65}, {200, 1}}},
      {4, 1, 64, 96, kSquare, {{40, 40}, {97, 33}}},
      {2, 2, 80, 32, kSquare, {{100, 100}, {70, 3}}},
      {3, 1, 80, 64, kNarrow, {{33, 33}, {90, 22}}},
      {1, 1, 96, 32, kSquare, {{66, 66}, {31, 31}}},
      {2, 2, 128, 32, kSquare, {{130, 66}, {32, 32}}},
      {2, 1, 128, 256, kNarrow, {{97, 64}, {129, 1}}},
      {1, 1, 256, 32, kNarrow, {{70, 70}}},
      {8, 1, 128, 32, kFlat, {{200, 1}, {33, 2}, {32, 1}, {31, 3}}},
      {16, 2, 256, 64, kFlat, {{65, 1}, {100, 2}}},
      {5, 1, 80, 32, kFlat, {{50, 1}, {129, 5}}},
      {2, 2, 32, 32, kSquare, {{70, 70}}},
      {1, 1, 72, 32, kNarrow, {{70, 40}}},
      {1, 1, 112, 32, kSquare, {{40, 40}}},
      {1, 1, 8, 32, kFlat, {{40, 20}}},
  };
  uint64_t seed = 0;
  for (const Shape& s : shapes) {
    AttentionCase c(DType::f16, s.heads, s.kv_heads, s.d, s.page, s.sequences);
    Normal normal(++seed);
    c.fill([&] { return normal(); });
    const std::vector<float> want = c.reference();
    for (const Way& way : ways()) {
      CAPTURE(s.heads, s.kv_heads, s.d, s.page, static_cast<int>(s.tiles), way.name);
      CHECK(relative_l2(prefilled(c, s.tiles, cuda::Split::none, 1, way), want) <= 1e-3);
    }
  }
}

TEST_CASE("CUDA prefill attention cut into parts merges to the same, also with a part of the CPU", "[cuda]") {
  for (cuda::PrefillTiles tiles : {kSquare, kFlat})
    for (const Way& way : ways()) {
      AttentionCase c(DType::f16, 4, 1, 64, 32, {{700, 5}, {30, 30}, {290, 17}});
      Normal normal(81);
      c.fill([&] { return normal(); });
      const std::vector<float> want = c.reference();
      CHECK(relative_l2(prefilled(c, tiles, cuda::Split::balanced, 1000, way), want) <= 1e-3);

      // positions [0, 64) were attended by the CPU
      PartMemory before(c.rows, c);
      ThreadPool pool(1);
      const std::vector<PositionRange> ranges(3, {0, 64});
      const AttentionPartials part = before.view(c);
      attention_partial(*backends().front(), {c.queries(), part.o, part.maximum, part.sum, c.n_heads, c.scale(), c.layout, c.spans, ranges}, {&pool});
      std::vector<cuda::PlannedSpan> spans = c.planned();
      for (cuda::PlannedSpan& s : spans) s.begin = 64;
      for (int64_t resident : {1, 8}) {  // sequence 0 is not cut; it is
        const cuda::PlanRequest request{4, 1, rows_of(tiles), resident, cuda::Split::balanced, true};
        const cuda::AttentionPlan plan = plan_attention(spans, request);
        PartMemory parts(plan.part_rows, c), whole(c.rows, c);
        c.clear();
        const std::unique_ptr<Place> place = open(way);
        PlannedAttention planned(*place, c, plan, parts);
        planned.attention.before = planned.merge.before = before.arrays(*place);
        const cuda::PartArrays whole_there = whole.arrays(*place);
        const auto launches = [&](void* stream) {
          const int error = attention_prefill(planned.attention, tiles, stream);
          return error ? error : attention_merge(planned.merge, stream);
        };
        REQUIRE(place->run(launches) == 0);
        CHECK(relative_l2(c.y, want) <= 1e-3);
        planned.attention.whole = planned.merge.merged = whole_there;
        planned.merge.y = nullptr;
        REQUIRE(place->run(launches) == 0);
        std::vector<float> y(c.y.size());
        finish(whole.view(c), c.layout.head_dim, {y.data(), c.rows, c.width(), c.width()});
        CHECK(relative_l2(y, want) <= 1e-3);
      }
    }
}

TEST_CASE("CUDA prefill attention of a token does not depend on what else is in the batch, nor on how its prompt is cut", "[cuda]") {
  AttentionCase whole(DType::f16, 2, 1, 80, 32, {{50, 50}, {150, 150}});
  Normal normal(82);
  whole.fill([&] { return normal(); });
  const Way way = ways().front();
  const std::vector<float> want = prefilled(whole, kSquare, cuda::Split::none, 1, way);
  PagedCache cache = std::move(whole.caches[1]);
  for (int64_t first : {0, 1, 63, 64, 100, 149}) {  // tokens [first, 150) of sequence 1, alone
    AttentionCase part(DType::f16, 2, 1, 80, 32, {{150, 150 - first}});
    part.take_cache(0, std::move(cache));
    const auto from = static_cast<ptrdiff_t>((50 + first) * whole.width());
    part.q.assign(whole.q.begin() + from, whole.q.end());
    CHECK(bit_difference(prefilled(part, kSquare, cuda::Split::none, 1, way), std::vector<float>(want.begin() + from, want.end())) == "");
    cache = std::move(part.caches[0]);
  }
}

TEST_CASE("CUDA prefill attention takes ALiBi slopes and turns queries as attention on CUDA cores does", "[cuda]") {
  AttentionCase c(DType::f16, 4, 2, 64, 32, {{90, 40}});
  Normal normal(83);
  c.fill([&] { return normal(); });
  const std::vector<float> slopes{0.25f, 0.0625f, 0.5f, 0.0f};
  std::vector<float> table;
  for (int p = 0; p < 90; ++p)
    for (int i = 0; i < 16; ++i) {
      const float angle = 0.05f * static_cast<float>(p * (i + 1));
      table.push_back(std::cos(angle)), table.push_back(std::sin(angle));
    }
  for (const Way& way : ways()) {
    const auto run = [&](int32_t rows, auto launch) {
      const cuda::AttentionPlan plan = plan_attention(c.planned(), {2, 2, rows, 1, cuda::Split::none, false});
      c.clear();
      const std::unique_ptr<Place> place = open(way);
      cuda::AttentionArguments a = c.arguments(*place);
      a.alibi_slopes = place->input(slopes, "slopes"), a.rotary = {place->input(table, "angles"), 32, true};
      a.items = place->input(plan.items, "items"), a.n_items = static_cast<int32_t>(plan.items.size());
      REQUIRE(place->run([&](void* stream) { return launch(a, stream); }) == 0);
      return c.y;
    };
    const std::vector<float> want = run(4, [](const cuda::AttentionArguments& a, void* stream) { return attention_decode(a, 4, stream); });
    CHECK(relative_l2(run(64, [](const cuda::AttentionArguments& a, void* stream) { return attention_prefill(a, kSquare, stream); }), want) <= 1e-3);
  }
}

TEST_CASE("CUDA attention has no kernel for tiles, rows, formats and heads that do not fit, and says so", "[cuda]") {
  AttentionCase c(DType::f16, 1, 1, 128, 32, {{1, 1}});
  const std::unique_ptr<Place> place = open(ways().front());
  cuda::AttentionArguments a = c.arguments(*place);
  a.n_items = 1;
  CHECK(attention_prefill(a, kTall, nullptr) == cuda::kInvalidValue);
  CHECK(attention_decode(a, 3, nullptr) == cuda::kInvalidValue);
  a.layout.head_dim = 256;
  CHECK(attention_prefill(a, kSquare, nullptr) == cuda::kInvalidValue);
  a.layout.head_dim = 100;
  CHECK(attention_prefill(a, kNarrow, nullptr) == cuda::kInvalidValue);
  a.layout.head_dim = 264;
  CHECK(attention_prefill(a, kNarrow, nullptr) == cuda::kInvalidValue);
  CHECK(attention_decode(a, 1, nullptr) == cuda::kInvalidValue);
  a.layout.head_dim = 64, a.layout.dtype = DType::f32;
  CHECK(attention_prefill(a, kNarrow, nullptr) == cuda::kInvalidValue);
}
