// SPDX-License-Identifier: Apache-2.0
// Plans for the small golden model and for OPT-6.7B's shape: the sums are the budget's, shares are met, what is missing is said.
#include "flexgen/runtime/memory_plan.h"

#include <numeric>

#include "flexgen/format/model_writer.h"
#include "flexgen/model/synthetic.h"
#include "kernels/registry.h"
#include "support/catch.h"
#include "support/deferred_backend.h"
#include "support/streamed_model.h"

using namespace flexgen;
using testing::StreamedModel;

namespace {

const ProcessMemory kProcess{40_MiB, 8_GiB};

uint64_t sum(const MemoryPlan& p) {
  uint64_t n = 0;
  for (const MemoryPlan::Line& l : p.lines()) n += l.memory_bytes;
  return n;
}

Demand demand(int64_t sequences, int64_t tokens) { return {sequences, tokens, sequences * tokens, sequences * tokens, sequences}; }

}  // namespace

TEST_CASE("where there is room, everything is in memory and nothing is planned for disk", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  const MemoryPlan p = make_memory_plan(m.file(), m.model(), {}, demand(16, 40), kProcess);
  CHECK(p.missing_bytes() == 0);
  CHECK(p.weights.streamed_bytes() == 0);
  CHECK(p.ring_bytes + p.rows_bytes == 0);
  CHECK(p.spill_bytes() == 0);
  CHECK(p.kv_share() == 1);
  CHECK(p.budget_bytes == kProcess.used_bytes + kProcess.available_bytes / 20 * 19);
  CHECK(sum(p) <= p.memory_bytes());
  CHECK(sum(p) + 16_MiB > p.memory_bytes());  // rounding
}

TEST_CASE("a budget is filled and never exceeded; too small a one misses bytes", "[runtime]") {
  const StreamedModel m(testing::test_data("tiny-opt"));
  Policy policy;
  policy.memory_bytes = 1_GiB;
  const uint64_t all = make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess).memory_bytes();
  bool streamed = false, spilled = false;
  for (uint64_t less = 0; less < 30_MiB; less += 1_MiB) {
    policy.memory_bytes = all - less;
    CAPTURE(policy.memory_bytes);
    const MemoryPlan p = make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess);
    if (p.missing_bytes() > 0) {
      CHECK(p.memory_bytes() - p.missing_bytes() == policy.memory_bytes);
      CHECK(p.weights.resident_bytes() == WeightPlacement::within(m.file(), m.program(), 0).resident_bytes());
      continue;
    }
    CHECK(p.memory_bytes() <= policy.memory_bytes);
    CHECK(sum(p) <= p.memory_bytes());
    if (p.weights.streamed_bytes() > 0) CHECK(p.ring_bytes >= 8 * TieredWeights::slot_bytes(m.file()));
    streamed |= p.weights.streamed_bytes() > 0;
    spilled |= p.kv.disk_pages > 0;
  }
  CHECK(streamed);
  CHECK(make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess).missing_bytes() > 0);
}

TEST_CASE("a timeline has a part of the budget, and never more than it wants", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  Demand d = demand(4, 40);
  Policy policy;
  policy.memory_bytes = 100_MiB;
  const MemoryPlan without = make_memory_plan(m.file(), m.model(), policy, d, kProcess);
  CHECK(without.trace_bytes == 0);
  d.trace_bytes = 190_MiB;
  const MemoryPlan small = make_memory_plan(m.file(), m.model(), policy, d, kProcess);
  CHECK(small.trace_bytes == 4_MiB);
  CHECK(small.memory_bytes() == without.memory_bytes() + 4_MiB);
  CHECK(sum(small) <= small.memory_bytes());
  policy.memory_bytes = 3_GiB;
  CHECK(make_memory_plan(m.file(), m.model(), policy, d, kProcess).trace_bytes == 96_MiB);
  policy.memory_bytes = 8_GiB;
  CHECK(make_memory_plan(m.file(), m.model(), policy, d, kProcess).trace_bytes == 190_MiB);
}

TEST_CASE("shares that were asked for are planned, with the frames and rings they need", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  Policy policy;
  policy.memory_bytes = 1_GiB;
  policy.gpu_batch_size = 4;
  policy.micro_batch_tokens = 32;
  policy.shares = Policy::Shares{{0.2, 0.3}, {0, 0.25}, {0, 0.5}};
  const MemoryPlan p = make_memory_plan(m.file(), m.model(), policy, demand(16, 200), kProcess);
  CHECK(p.missing_bytes() == 0);
  CHECK(p.weights.share() == Approx(0.5).margin(0.05));
  CHECK(p.kv.disk_pages > 0);
  CHECK(p.activation_share == 0.5);
  CHECK(p.frames_bytes == HiddenStore::kFrames * HiddenStore::frame_bytes(32, m.model().width));
  CHECK(p.hidden_disk_bytes > 0);
  CHECK(p.hidden_bytes > 0);
  CHECK(p.sweep_tokens == 3200);
  CHECK(p.rows_bytes > 0);
  // a step's streamed blocks are held while micro-batches go through it
  uint64_t held = 0;
  const FileTensor &qkv = *m.file().find("layers.0.attn.qkv.weight"), &out = *m.file().find("layers.0.attn.out.weight");
  for (const FileTensor* t : {&qkv, &out})
    for (size_t b = t->first_block; b < t->first_block + t->n_blocks; ++b) held += p.weights.resident(b) ? 0 : 1;
  CHECK(p.ring_bytes >= (held + 8) * TieredWeights::slot_bytes(m.file()));
  Policy merged = policy;
  merged.sep_layer = false;
  CHECK(make_memory_plan(m.file(), m.model(), merged, demand(16, 200), kProcess).ring_bytes > p.ring_bytes);

  policy.shares = Policy::Shares{{0, 0}, {0, 0}, {0, 1}};
  policy.overlap = false;
  const MemoryPlan none = make_memory_plan(m.file(), m.model(), policy, demand(16, 200), kProcess);
  CHECK(none.ring_bytes == 4 * TieredWeights::slot_bytes(m.file()));
  CHECK(none.kv.memory_pages == 0);
  CHECK(none.hidden_disk_bytes == 0);
}

TEST_CASE("with a card two budgets are filled and never exceeded, the card's first", "[runtime]") {
  const StreamedModel m(testing::test_data("tiny-opt"));
  testing::FakeDevice card;
  testing::DeferredBackend backend(card, *backends().front());
  const DeviceRoom room{&backend, 64_MiB};
  Policy policy;
  policy.memory_bytes = 1_GiB;
  const MemoryPlan roomy = make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess, room);
  REQUIRE(roomy.device);
  CHECK(roomy.device->budget_bytes == 64_MiB / 20 * 19);
  CHECK(roomy.weights.streamed_bytes() == 0);
  CHECK(roomy.kv_device_share() == 1);
  CHECK(roomy.device->workspace_bytes == backend.workspace_bytes(roomy.device->demand));
  CHECK(roomy.device->arguments_bytes == backend.arguments_bytes(roomy.device->demand));
  CHECK(roomy.device->demand.pages == 2 * 4 * div_up<int64_t>(64, roomy.kv_demand.layout.page_tokens));

  bool host_weights = false, host_pages = false, refused = false;
  for (uint64_t bytes = roomy.device_bytes(); bytes > 100_KiB; bytes = bytes / 8 * 7) {
    policy.device_bytes = bytes;
    CAPTURE(bytes);
    const MemoryPlan p = make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess, room);
    uint64_t on_card = 0, in_memory = 0;
    for (const MemoryPlan::Line& l : p.lines()) on_card += l.device_bytes, in_memory += l.memory_bytes;
    CHECK(on_card <= p.device_bytes());
    CHECK(in_memory <= p.memory_bytes());
    CHECK(p.missing_bytes() == 0);
    refused = p.device_missing_bytes() > 0;
    CHECK(p.device_bytes() - p.device_missing_bytes() <= bytes);
    if (refused) continue;
    CHECK(p.weights.disk_bytes() + p.kv.disk_bytes() == 0);  // the host has room for all that the card has not
    host_weights |= p.weights.host_bytes() > 0;
    host_pages |= p.kv.host_pages > 0;
    if (p.kv.host_pages > 0) CHECK(p.weights.resident_bytes() <= WeightPlacement::within(m.file(), m.program(), 0).resident_bytes() + 2_MiB);
  }
  CHECK(host_weights);
  CHECK(refused);

  policy.device_bytes = 0;
  policy.shares = Policy::Shares{{0.25, 0.5}, {0.5, 0.25}, {1, 0}};
  const MemoryPlan shared = make_memory_plan(m.file(), m.model(), policy, demand(16, 600), kProcess, room);
  CHECK(shared.weights.share() == Approx(0.25).margin(0.1));
  CHECK(shared.weights.host_share() == Approx(0.5).margin(0.1));
  CHECK(shared.kv.host_pages > 0);
  CHECK(shared.kv.disk_pages > 0);
  CHECK(shared.device->bounce_slot >= shared.kv.frame_bytes);

  // weights that are not pinned leave the arena, and what they pass through is in it either way
  CHECK(shared.pageable_bytes() == 0);
  policy.pin_weight = false;
  const MemoryPlan pageable = make_memory_plan(m.file(), m.model(), policy, demand(16, 600), kProcess, room);
  CHECK(pageable.weights.host_bytes() == shared.weights.host_bytes());
  CHECK(pageable.pageable_bytes() == round_up<uint64_t>(shared.weights.host_bytes(), Buffer::kHugePage));
  const auto all = [](const std::vector<uint64_t>& pieces) { return std::accumulate(pieces.begin(), pieces.end(), uint64_t{0}); };
  CHECK(all(shared.host_pieces()) - all(pageable.host_pieces()) == shared.weights.host_bytes());
  CHECK(pageable.device->bounce_bytes >= 2 * TieredWeights::slot_bytes(m.file()));
  CHECK(pageable.arena_bytes() >= pageable.device->bounce_bytes);
  CHECK(sum(pageable) <= pageable.memory_bytes());
  CHECK(pageable.memory_bytes() >= pageable.arena_bytes() + pageable.pageable_bytes() + kProcess.used_bytes);
}

TEST_CASE("whole micro-batches go to disk: of few, perhaps none, and then the plan knows no disk for them", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  Policy policy;
  policy.memory_bytes = 1_GiB;
  policy.shares = Policy::Shares{{0, 1}, {0, 1}, {0, 0.5}};
  const MemoryPlan one = make_memory_plan(m.file(), m.model(), policy, demand(4, 40), kProcess);
  CHECK(one.activation_share == 1);
  CHECK(one.hidden_disk_bytes + one.frames_bytes == 0);
  policy.gpu_batch_size = 1;
  CHECK(make_memory_plan(m.file(), m.model(), policy, demand(4, 40), kProcess).activation_share == 0.5);
}

TEST_CASE("a small budget has a small ring, and what is left holds weights", "[runtime]") {
  ModelDescription shape;
  shape.n_layers = 24, shape.width = shape.embed_width = 512, shape.ffn = 2048, shape.n_heads = shape.n_kv_heads = 8, shape.head_dim = 64;
  shape.vocab = 512, shape.max_positions = 64, shape.position_offset = 2;
  const StreamedModel m(shape);  // 147 MiB
  const uint64_t slot = TieredWeights::slot_bytes(m.file());
  Policy policy;
  for (const uint64_t mib : {80, 96, 112, 144, 176}) {
    policy.memory_bytes = mib * 1_MiB;
    CAPTURE(mib);
    const MemoryPlan p = make_memory_plan(m.file(), m.model(), policy, demand(1, 16), kProcess);
    REQUIRE(p.missing_bytes() == 0);
    CHECK(p.weights.streamed_bytes() > 0);
    CHECK(p.ring_bytes >= 8 * slot);
    CHECK(p.ring_bytes <= std::max(8 * slot, policy.memory_bytes / 8));
    CHECK(p.memory_bytes() + 2_MiB + slot > policy.memory_bytes);
  }
}

TEST_CASE("a budget larger than what is free is cut to what is free, and remembered", "[runtime]") {
  const StreamedModel m(testing::test_data("tiny-opt"));
  Policy policy;
  policy.memory_bytes = kProcess.used_bytes + kProcess.available_bytes;
  CHECK(make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess).budget_bytes == policy.memory_bytes);
  CHECK(make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess).asked_bytes == 0);
  policy.memory_bytes += 1;
  const MemoryPlan p = make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess);
  CHECK(p.budget_bytes == kProcess.used_bytes + kProcess.available_bytes / 20 * 19);
  CHECK(p.asked_bytes == policy.memory_bytes);

  testing::FakeDevice card;
  testing::DeferredBackend backend(card, *backends().front());
  policy.device_bytes = 64_MiB;
  const auto on_card = [&] { return *make_memory_plan(m.file(), m.model(), policy, demand(4, 64), kProcess, {&backend, 64_MiB}).device; };
  CHECK((on_card().budget_bytes == 64_MiB && on_card().asked_bytes == 0));
  policy.device_bytes += 1;
  CHECK((on_card().budget_bytes == 64_MiB / 20 * 19 && on_card().asked_bytes == policy.device_bytes));
}

TEST_CASE("what is free counts the program's own file pages once: they are in memory, and could be dropped", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  const ProcessMemory process{40_MiB, 200_MiB, 30_MiB};  // in a cgroup of 210 MiB
  const MemoryPlan p = make_memory_plan(m.file(), m.model(), {}, demand(4, 40), process);
  CHECK(p.all_free);
  CHECK(p.budget_bytes == 10_MiB + 190_MiB);
  Policy policy;
  policy.memory_bytes = 210_MiB;
  CHECK(make_memory_plan(m.file(), m.model(), policy, demand(4, 40), process).budget_bytes == 210_MiB);
}
