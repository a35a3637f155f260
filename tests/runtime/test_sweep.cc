// SPDX-License-Identifier: Apache-2.0
// The sweep against HF's logits, and against itself: however tokens are cut into spans, micro-batches and row blocks, on whatever
// instruction set and however many threads, logits have the same bits.
#include "flexgen/runtime/sweep.h"

#include <set>

#include "kernels/registry.h"
#include "support/errors.h"
#include "support/fake_io_engine.h"
#include "support/swept_logits.h"

using namespace flexgen;
using testing::CheckpointWeights;
using testing::Golden;
using testing::GoldenSequence;
using testing::relative_error;
using testing::same_bits;
using testing::Shape3;

namespace {

// logits of every position of every sequence, [n_tok, V] each
std::vector<std::vector<float>> all_logits(const Golden& g, const std::vector<GoldenSequence>& sequences, const Backend& backend, int threads,
                                           Shape3 shape, KvOptions kv, SweepOptions options = {}, int64_t block_rows = 48) {
  ThreadPool pool(threads);
  CheckpointWeights weights(g.checkpoint, g.sources, block_rows);
  kv.pool = &pool;
  KvStore cache(std::move(kv));
  Sweep sweep(g.model(), backend, {&pool, nullptr}, weights, cache, options);
  return testing::swept_logits(sweep, cache, g.model().vocab, sequences, shape);
}

std::vector<std::vector<float>> all_logits(const Golden& g, const std::vector<GoldenSequence>& sequences, const Backend& backend, int threads,
                                           Shape3 shape, DType kv = DType::f32, int64_t page_tokens = 32, SweepOptions options = {},
                                           int64_t block_rows = 48) {
  const KvLayout layout{kv, g.model().n_kv_heads, g.model().head_dim, page_tokens};
  return all_logits(g, sequences, backend, threads, shape, KvOptions::in_memory(g.model().n_layers, layout, 256_MiB), options, block_rows);
}

}  // namespace

TEST_CASE("logits equal HF's on every golden checkpoint, alone and in ragged batches", "[runtime][golden]") {
  for (const std::string& folder : testing::golden_folders()) {
    const Golden g(folder);
    for (const Backend* b : backends()) {
      if (FLEXGEN_SANITIZED && b != backends().front()) continue;  // seen without sanitizers; minutes with
      if (b->name == "portable" && g.sequences.front().tokens.size() > 100) continue;  // std::fma in software: minutes
      CAPTURE(g.name, b->name);
      const auto batch = all_logits(g, g.sequences, *b, 2, {16, 64, 1000});
      for (size_t i = 0; i < g.sequences.size(); ++i) {
        CAPTURE(i);
        CHECK(relative_error(batch[i], g.sequences[i].logits) < 1e-5);
        const auto alone = all_logits(g, {g.sequences[i]}, *b, 1, {1, 512, 1000});
        CHECK(same_bits(alone, {batch[i]}));
      }
    }
  }
}

TEST_CASE("logits have the same bits however the work is cut", "[runtime]") {
  for (const std::string& folder : {testing::test_data("golden/postnorm-proj-f16"), testing::test_data("golden/head128-bf16-sharded")}) {
    const Golden g(folder);
    CAPTURE(g.name);
    const Backend* fast = backends().front();
    const auto want = all_logits(g, g.sequences, *fast, 1, {16, 512, 1000});
    for (const Backend* b : backends()) {
      if (b->name == "ref") continue;  // accumulates in double
      if (FLEXGEN_SANITIZED && b->name == "portable") continue;
      CAPTURE(b->name);
      CHECK(same_bits(all_logits(g, g.sequences, *b, 3, {2, 5, 7}), want));
    }
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {1, 1, 1}), want));
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {3, 9, 1000}, DType::f32, 64), want));
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {3, 9, 1000}, DType::f32, 32, {.activation_bytes = 0, .logits_bytes = 0}), want));
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {3, 9, 1000}, DType::f32, 32, {.activation_bytes = 0, .merge_steps = true}), want));
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {16, 512, 1000}, DType::f32, 32, {}, 7), want));
    const auto half = all_logits(g, g.sequences, *fast, 1, {16, 512, 1000}, DType::f16);
    CHECK(!same_bits(half, want));
    CHECK(same_bits(all_logits(g, g.sequences, *fast, 2, {2, 5, 3}, DType::f16), half));
    for (size_t i = 0; i < half.size(); ++i) CHECK(relative_error(half[i], want[i]) < 2e-3);
  }
}

TEST_CASE("a trace has every operation of every layer, one after the other", "[runtime]") {
  const Golden g(testing::test_data("golden/prenorm-f16-bin"));
  for (const uint64_t activation_bytes : {256_MiB, 0_MiB}) {  // row blocks outside; micro-batches outside
    CAPTURE(activation_bytes);
    Trace trace;
    const auto traced =
        all_logits(g, g.sequences, *backends().front(), 2, {2, 512, 1000}, DType::f32, 32, {.activation_bytes = activation_bytes, .trace = &trace});
    CHECK(same_bits(traced,
                    all_logits(g, g.sequences, *backends().front(), 2, {2, 512, 1000}, DType::f32, 32, {.activation_bytes = activation_bytes})));
    std::set<std::string> whole, per_batch;  // "name layer", over all micro-batches and over one
    int64_t end = 0;
    trace.for_each([&](const TraceEvent& e) {
      CHECK(e.kind == TraceEvent::Kind::compute);
      CHECK(e.start_ns >= end);
      CHECK(e.end_ns >= e.start_ns);
      end = e.end_ns;
      (e.micro_batch < 0 ? whole : per_batch).insert(fmt::format("{} {}", e.what, e.layer));
    });
    std::set<std::string> linears, others{"embed -1", "positions -1"}, head{"norm -1", "logits -1"};
    for (int64_t i = 0; i < g.model().n_layers; ++i) {
      for (const char* name : {"qkv", "out", "fc1", "fc2"}) linears.insert(fmt::format("{} {}", name, i));
      for (const char* name : {"norm", "attend"}) others.insert(fmt::format("{} {}", name, i));
    }
    (activation_bytes > 0 ? head : others).merge(linears);
    CHECK(whole == head);
    CHECK(per_batch == others);
  }
}

TEST_CASE("logits have the same bits wherever the cache lies", "[runtime]") {
  const Golden g(testing::test_data("golden/head128-bf16-sharded"));
  const Backend& fast = *backends().front();
  const std::vector<GoldenSequence> sequences = testing::longer(g);
  const auto want = all_logits(g, sequences, fast, 2, {16, 512, 1000});
  struct Setting {
    double share;
    int64_t page_tokens;
    bool overlap, smallest;
    Shape3 shape;
    SweepOptions sweep;
  };
  const SweepOptions step_outside{.activation_bytes = 0};
  const std::vector<Setting> settings{{0.5, 32, true, false, {16, 512, 7}, {}},      {0, 32, true, false, {2, 5, 7}, {}},
                                      {0, 16, true, true, {3, 9, 1000}, {}},         {0, 32, false, true, {3, 9, 13}, {}},
                                      {0.5, 32, true, true, {2, 5, 7}, {}},          {0, 64, true, false, {3, 40, 33}, {}},
                                      {0, 16, true, true, {2, 5, 20}, step_outside}, {0.3, 16, false, false, {16, 50, 1000}, step_outside}};
  for (size_t i = 0; i < settings.size(); ++i) {
    const Setting& s = settings[i];
    CAPTURE(i);
    const KvLayout layout{DType::f32, g.model().n_kv_heads, g.model().head_dim, s.page_tokens};
    const KvDemand demand{g.model().n_layers, layout, static_cast<int64_t>(sequences.size()), testing::longest(sequences), s.shape.max_spans,
                          s.shape.max_tokens, s.share, s.overlap, 0};
    const KvRequirement r = kv_requirement(demand);
    KvOptions o = KvOptions::planned(demand, r);
    if (s.smallest) {
      o.frames -= o.staging_frames - r.smallest_staging_in;
      o.staging_frames = r.smallest_staging_in;
    }
    const Fd file = testing::spill_file(r.disk_bytes());
    testing::FakeIoEngine io(static_cast<uint32_t>(i + 1));
    o.io = &io;
    o.spill_fd = file.get();
    CHECK(same_bits(all_logits(g, sequences, fast, 2, s.shape, o, s.sweep), want));
    CHECK(io.statistics().reads > 0);
  }
}

TEST_CASE("a stopped sweep throws and commits nothing", "[runtime]") {
  const Golden g(testing::test_data("golden/prenorm-f16-bin"));
  ThreadPool pool(1);
  CheckpointWeights weights(g.checkpoint, g.sources);
  KvStore cache(g.model().n_layers, {DType::f32, g.model().n_kv_heads, g.model().head_dim, 32}, 64_MiB);
  Sweep sweep(g.model(), *backends().front(), {&pool, nullptr}, weights, cache);
  const SequenceId id = cache.create();
  const SweepPlan plan = pack({{id, g.sequences[0].prompt_tokens, 0, 0}}, 1, 512);
  const std::atomic<bool> stop{true};
  CHECK_FAULT(sweep.run(plan, [](const LogitsRow&) { FAIL("logits"); }, &stop), Fault::interrupted, "stopped");
  CHECK(cache.length(id) == 0);
  size_t rows = 0;
  sweep.run(plan, [&](const LogitsRow&) { ++rows; });
  CHECK(rows == g.sequences[0].prompt_tokens.size());
  sweep.run({}, [](const LogitsRow&) { FAIL("logits of nothing"); });
  CHECK_FAULT(sweep.run(pack({{id, {1}, g.model().max_positions, 0}}, 1, 1), {}), Fault::internal, "positions");
}
