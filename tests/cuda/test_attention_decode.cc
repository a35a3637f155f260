// SPDX-License-Identifier: Apache-2.0
// Attention on CUDA cores and the merge of its parts: the bits of the CPU backends, however a batch is put together and cut.
#include "cuda/attention_case.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// Decode of a whole batch, the merge included
std::vector<float> decoded(AttentionCase& c, cuda::Split split, int64_t resident, const Way& way) {
  int64_t most = 0;
  for (const SequenceShape& s : c.sequences) most = std::max(most, s.n_tok * c.group());
  cuda::PlanRequest request;
  request.group = c.group(), request.kv_heads = static_cast<int32_t>(c.layout.n_heads), request.rows = cuda::decode_rows(most);
  request.resident = resident, request.split = split;
  const cuda::AttentionPlan plan = plan_attention(c.planned(), request);
  PartMemory parts(plan.part_rows, c);
  c.clear();
  const std::unique_ptr<Place> place = open(way);
  PlannedAttention planned(*place, c, plan, parts);
  planned.attention.part_per_block = split == cuda::Split::every_block;
  REQUIRE(place->run([&](void* stream) {
    const int error = cuda::attention_decode(planned.attention, request.rows, stream);
    return error ? error : cuda::attention_merge(planned.merge, stream);
  }) == 0);
  return c.y;
}

}  // namespace

TEST_CASE("CUDA decode attention has the CPU's bits: all head sizes, groups, page and block edges", "[cuda]") {
  Random random(61);
  struct Shape { int64_t heads, kv_heads, d, page; };
  const std::vector<SequenceShape> lengths{{1, 1}, {31, 1}, {32, 1}, {33, 1}, {64, 2}, {97, 3}};
  for (DType dtype : {DType::f16, DType::f32})
    for (const Shape& s : {Shape{2, 2, 64, 32}, Shape{2, 1, 80, 64}, Shape{3, 1, 128, 32}, Shape{1, 1, 256, 96}, Shape{2, 2, 32, 32},
                           Shape{1, 1, 96, 32}, Shape{2, 1, 5, 32}, Shape{1, 1, 40, 32}, Shape{1, 1, 100, 64}, Shape{5, 1, 16, 32}}) {
      AttentionCase c(dtype, s.heads, s.kv_heads, s.d, s.page, lengths);
      c.fill([&] { return random.value(); });
      const std::vector<float> want = c.on_cpu(*backends().front());
      for (const Way& way : ways()) {
        CAPTURE(name(dtype), s.heads, s.kv_heads, s.d, s.page, way.name);
        CHECK(bit_difference(decoded(c, cuda::Split::none, 1, way), want) == "");
      }
    }
}

TEST_CASE("CUDA decode attention: with a part for each block neither split nor batch shows in a bit", "[cuda]") {
  Random random(62);
  for (DType dtype : {DType::f16, DType::f32})
    for (int64_t d : {64, 80}) {
      std::vector<SequenceShape> lengths{{700, 1}, {5, 1}, {257, 2}, {320, 1}};
      AttentionCase batch(dtype, 2, 1, d, 64, lengths);
      batch.fill([&] { return random.value(); });
      const std::vector<float> want = batch.on_cpu(*backends().front());
      for (int64_t resident : {1, 4, 1000}) {  // from one item a span to parts of the least size
        const Way way = ways()[static_cast<size_t>(resident) % ways().size()];
        CAPTURE(name(dtype), d, resident);
        CHECK(bit_difference(decoded(batch, cuda::Split::every_block, resident, way), want) == "");
        const std::vector<float> balanced = decoded(batch, cuda::Split::balanced, resident, way);
        CHECK(relative_l2(balanced, want) <= 1e-6);
        if (resident == 1) CHECK(bit_difference(balanced, want) == "");  // not cut: the blocks merge in their order
      }
      // each sequence in a batch of its own
      for (size_t i = 0; i < lengths.size(); ++i) {
        AttentionCase alone(dtype, 2, 1, d, 64, {lengths[i]});
        alone.take_cache(0, std::move(batch.caches[i]));
        const auto first = static_cast<size_t>(batch.spans[i].first_row * batch.width()), n = alone.q.size();
        std::copy_n(batch.q.begin() + static_cast<ptrdiff_t>(first), n, alone.q.begin());
        const std::vector<float> got = decoded(alone, cuda::Split::every_block, 1000, ways().front());
        CHECK(bit_difference(got, std::span(want).subspan(first, n)) == "");
      }
    }
}

TEST_CASE("CUDA decode attention, 40,000 positions in a part for each block: the CPU's bits, and a double's result", "[cuda]") {
  constexpr int64_t kPositions = 40000, kBlocks = kPositions / 32;
  Random random(66);
  AttentionCase c(DType::f16, 2, 1, 16, 64, {{kPositions, 1}});
  c.fill([&] { return random.value(); });
  const std::vector<float> got = decoded(c, cuda::Split::every_block, 1000, ways().front());
  CHECK(bit_difference(got, c.on_cpu(*backends().front())) == "");
  // |v| <= 1 is weighted with at most this many roundings: of the score and its exponential, of sums in a block and over the blocks
  const double bound = (2 * 16 + 8 + 2 * (32 + 3 * kBlocks)) * 0x1p-24;
  CHECK(difference(got, c.reference(), Tolerance{bound, 0}) == "");
}

TEST_CASE("CUDA merges as many parts as its arguments hold, in their order", "[cuda]") {
  Random random(67);
  constexpr size_t kParts = 1 + cuda::kMostAfter;
  const int64_t heads = 3, d = 40, rows = 2;
  AttentionCase c(DType::f16, heads, heads, d, 32, {{1024, 2}});
  c.fill([&] { return random.value(); });
  ThreadPool pool(1);
  std::vector<PartMemory> parts;
  std::vector<AttentionPartials> views;
  for (size_t i = 0; i < kParts; ++i) {  // a block each
    views.push_back(parts.emplace_back(rows, c).view(c));
    const PositionRange range{static_cast<int64_t>(i) * 32, static_cast<int64_t>(i + 1) * 32};
    const AttentionPartials& v = views[i];
    attention_partial(*backends().front(), {c.queries(), v.o, v.maximum, v.sum, heads, c.scale(), c.layout, c.spans, {&range, 1}}, {&pool});
  }
  const std::vector<float> want = c.on_cpu(*backends().front());
  each_way([&](Place& place) {
    c.clear();
    cuda::MergeArguments m;
    m.before = parts[0].arrays(place);
    for (size_t i = 1; i < kParts; ++i) m.after[m.n_after++] = parts[i].arrays(place);
    m.y = place.output(c.y, "y"), m.y_stride = c.width(), m.n_heads = heads, m.head_dim = d, m.max_tok = rows;
    REQUIRE(place.run([&](void* stream) { return cuda::attention_merge(m, stream); }) == 0);
    CHECK(bit_difference(c.y, want) == "");
  });
}

TEST_CASE("CUDA decode attention, exact inputs: equal scores give the mean, a dominating key its value, far into a sequence", "[cuda]") {
  for (const Way& way : ways()) {
    AttentionCase c(DType::f16, 1, 1, 64, 32, {{1500, 1}, {64, 1}});
    c.fill([] { return 0.0f; });
    // sequence 0: q = 0, so all scores are 0; v[p][d] = d - (p % 2): the mean is d - 1/2
    for (int64_t p = 0; p < 1500; ++p)
      for (int64_t d = 0; d < 64; ++d) c.set(0, false, 0, p, d, static_cast<float>(d) - static_cast<float>(p % 2));
    // sequence 1: key 37 alone points along q, and its score of 800 leaves nothing of the others
    for (int64_t d = 0; d < 64; ++d) {
      c.q[static_cast<size_t>(64 + d)] = 10;
      c.set(1, true, 0, 37, d, 10);
      for (int64_t p = 0; p < 64; ++p) c.set(1, false, 0, p, d, static_cast<float>(100 * p + d));
    }
    const std::vector<float> y = decoded(c, cuda::Split::balanced, 8, way);
    for (size_t d = 0; d < 64; ++d) {
      CHECK(y[d] == static_cast<float>(d) - 0.5f);
      std::byte stored[2];
      store_element(DType::f16, stored, 0, static_cast<float>(3700 + d));
      CHECK(y[64 + d] == load_element(DType::f16, stored, 0));
    }
  }
}

TEST_CASE("CUDA decode attention takes up what the CPU attended and merges with what follows: the bits of attention over all", "[cuda]") {
  Random random(63);
  ThreadPool pool(1);
  for (DType dtype : {DType::f16, DType::f32})
    for (int64_t resident : {1, 16})  // nothing is cut; parts of the least size
      each_way([&](Place& place) {
        CAPTURE(name(dtype), resident);
        AttentionCase c(dtype, 4, 2, 64, 32, {{300, 1}, {90, 2}, {40, 1}, {64, 1}});
        c.fill([&] { return random.value(); });
        const Backend& cpu = *backends().front();
        const std::vector<float> want = c.on_cpu(cpu);
        // the host holds positions before `begin` and from `end` on; sequence 2 lies all on the host, sequence 3 all on the device
        const std::vector<PositionRange> device{{96, 256}, {32, 90}, {0, 0}, {0, 64}};
        std::vector<cuda::PlannedSpan> spans = c.planned();
        std::vector<PositionRange> before, after;
        for (size_t i = 0; i < spans.size(); ++i) {
          spans[i].begin = device[i].begin, spans[i].end = device[i].end;
          before.push_back({0, device[i].begin}), after.push_back({(device[i].end + 31) / 32 * 32, 1 << 20});
        }
        PartMemory first(c.rows, c), last(c.rows, c);
        const auto host = [&](PartMemory& m, const std::vector<PositionRange>& ranges) {
          const AttentionPartials part = m.view(c);
          attention_partial(cpu, {c.queries(), part.o, part.maximum, part.sum, c.n_heads, c.scale(), c.layout, c.spans, ranges}, {&pool});
        };
        host(first, before), host(last, after);

        const cuda::PlanRequest request{2, 2, 4, resident, cuda::Split::every_block, true};
        const cuda::AttentionPlan plan = plan_attention(spans, request);
        CHECK((plan.part_rows > 0) == (resident > 1));
        PartMemory parts(plan.part_rows, c), whole(c.rows, c);
        PlannedAttention planned(place, c, plan, parts);
        planned.attention.part_per_block = true;
        planned.attention.before = planned.merge.before = first.arrays(place);
        const cuda::PartArrays whole_there = whole.arrays(place), last_there = last.arrays(place);
        const auto launches = [&](void* stream) {
          const int error = cuda::attention_decode(planned.attention, 4, stream);
          return error ? error : cuda::attention_merge(planned.merge, stream);
        };
        const auto bits = [&](size_t row, size_t n) {
          const size_t at = row * static_cast<size_t>(c.width()), size = n * static_cast<size_t>(c.width());
          return bit_difference(std::span(c.y).subspan(at, size), std::span(want).subspan(at, size));
        };
        // divided: right where nothing follows
        REQUIRE(place.run(launches) == 0);
        CHECK(bits(1, 2) == "");
        CHECK(bits(4, 1) == "");
        // undivided, then merged with what follows
        planned.attention.whole = planned.merge.merged = whole_there;
        planned.merge.y = nullptr;
        cuda::MergeArguments m;
        m.before = whole_there, m.after[0] = last_there, m.n_after = 1;
        m.y = planned.attention.y, m.y_stride = c.width(), m.n_heads = 4, m.head_dim = 64, m.max_tok = static_cast<int32_t>(c.rows);
        REQUIRE(place.run([&](void* stream) {
          const int error = launches(stream);
          return error ? error : cuda::attention_merge(m, stream);
        }) == 0);
        CHECK(relative_l2(c.y, want) <= 1e-6);
        CHECK(bits(1, 4) == "");  // the last part of sequence 0, two blocks at once, rounds differently; all else is the contract
      });
}

TEST_CASE("CUDA decode attention takes ALiBi slopes and turns queries", "[cuda]") {
  Random random(64);
  each_way([&](Place& place) {
    AttentionCase c(DType::f32, 2, 1, 8, 32, {{70, 3}});
    c.fill([&] { return random.value(); });
    const std::vector<float> slopes{0.5f, 0.0625f};
    std::vector<float> table;
    for (int p = 0; p < 70; ++p)
      for (int i = 0; i < 3; ++i) {
        const float angle = 0.1f * static_cast<float>(p * (i + 1));
        table.push_back(std::cos(angle)), table.push_back(std::sin(angle));
      }
    const cuda::PlanRequest request{2, 1, 4, 1, cuda::Split::none, false};
    const cuda::AttentionPlan plan = plan_attention(c.planned(), request);
    cuda::AttentionArguments a = c.arguments(place);
    a.alibi_slopes = place.input(slopes, "slopes"), a.rotary = {place.input(table, "angles"), 6, false};
    a.items = place.input(plan.items, "items"), a.n_items = static_cast<int32_t>(plan.items.size());
    REQUIRE(place.run([&](void* stream) { return cuda::attention_decode(a, 4, stream); }) == 0);
    std::vector<float> want;
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t h = 0; h < 2; ++h) {
        const int64_t position = 67 + t;
        const float* const q = c.q.data() + (t * 2 + h) * 8;
        double turned[8], weights = 0, out[8] = {};
        for (int d = 0; d < 8; ++d) {
          turned[d] = static_cast<double>(q[d]);
          if (d >= 6) continue;
          const size_t at = static_cast<size_t>((position * 3 + d % 3) * 2);
          const double cosine = static_cast<double>(table[at]), sine = static_cast<double>(table[at + 1]);
          const double partner = static_cast<double>(q[d < 3 ? d + 3 : d - 3]);
          turned[d] = turned[d] * cosine + (d < 3 ? -partner : partner) * sine;
        }
        const auto at = [&](std::byte* const* pages, int64_t p, int64_t d) {
          return static_cast<double>(load_element(DType::f32, pages[p / 32], static_cast<size_t>(p % 32 * 8 + d)));
        };
        for (int64_t p = 0; p <= position; ++p) {
          double score = 0;
          for (int64_t d = 0; d < 8; ++d) score += turned[d] * at(c.spans[0].k_pages, p, d) * static_cast<double>(c.scale());
          const double w = std::exp(score + static_cast<double>(slopes[static_cast<size_t>(h)]) * static_cast<double>(p - position));
          weights += w;
          for (int64_t d = 0; d < 8; ++d) out[d] += w * at(c.spans[0].v_pages, p, d);
        }
        for (double o : out) want.push_back(static_cast<float>(o / weights));
      }
    CHECK(relative_l2(c.y, want) <= 1e-5);
  });
}

TEST_CASE("CUDA decode attention: a score of any size, and NaN stays in its own row", "[cuda]") {
  Random random(65);
  for (const Way& way : ways()) {
    AttentionCase c(DType::f32, 2, 2, 16, 32, {{50, 6}});
    c.fill([&] { return random.value(); });
    for (size_t d = 0; d < 16; ++d) {
      c.q[2 * 32 + d] = 1e18f;
      c.q[3 * 32 + 16 + d] = std::nanf("");
      c.q[4 * 32 + d] = INFINITY;
    }
    const std::vector<float> want = c.on_cpu(*backends().front());
    CHECK(bit_difference(decoded(c, cuda::Split::none, 1, way), want) == "");
  }
}
