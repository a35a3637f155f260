// SPDX-License-Identifier: Apache-2.0
// The store alone: pages come, go, are shared, and lie in memory or in the spill file; every position must still hold what was written
// to it, whatever the number of frames.
#include "flexgen/runtime/kv_store.h"

#include "support/errors.h"
#include "support/kv_device.h"

using namespace flexgen;
using namespace flexgen::testing;

TEST_CASE("pages are added as a sequence grows and come back when it is dropped", "[runtime]") {
  Cache c(KvOptions::in_memory(kLayers, kLayout, 1_MiB));
  CHECK(c.store.max_pages() == 256);
  CHECK(c.store.pages_for(1) == 6);
  CHECK(c.store.pages_for(33) == 12);
  const SequenceId a = c.create(), b = c.create();
  c.sweep({{a, 33}, {b, 1}});
  CHECK(c.store.length(a) == 33);
  CHECK(c.store.used_pages() == 18);
  CHECK(c.store.used_frames() == 18);
  const SweepPlan plan{{{{{a, {5}, 33, 0}, {b, {7, 8}, 1, 2}}}}};
  c.store.begin_sweep(plan);
  const KvView& v = c.store.acquire(0, 0);
  REQUIRE(v.spans.size() == 2);
  CHECK(v.last);
  CHECK(v.spans[0].first_row == 0);
  CHECK(v.spans[1].first_row == 1);
  CHECK(v.spans[1].n_tok == 2);
  CHECK_FAULT(c.store.end_sweep(), Fault::internal, "the sweep is at 0 of 6 spans");
  CHECK_FAULT(c.store.acquire(0, 0), Fault::internal, "out of turn");
  c.store.release();
  CHECK_FAULT(c.store.release(), Fault::internal, "nothing is acquired");
  CHECK_FAULT(c.store.acquire(2, 0), Fault::internal, "layer 2, micro-batch 0 out of turn");
  CHECK_FAULT(c.store.fork(a), Fault::internal, "a fork within a sweep");
  CHECK_FAULT(c.store.truncate(a, 0), Fault::internal, "a sequence cut within a sweep");
  c.store.abort_sweep();
  c.store.drop(a);
  CHECK(c.store.used_pages() == 6);
  c.store.drop(b);
  check_empty(c.store);
  CHECK_FAULT(c.store.length(a), Fault::internal, "sequence 1");
}

TEST_CASE("uncommitted tokens vanish", "[runtime]") {
  Cache c(KvOptions::in_memory(kLayers, kLayout, 1_MiB));
  const SequenceId a = c.create();
  c.sweep({{a, 32}});
  const SweepPlan plan{{{{span_of(a, 32, 40)}}}};
  c.store.begin_sweep(plan);
  c.store.acquire(0, 0);
  CHECK(c.store.used_pages() == 6 + 4);
  c.store.abort_sweep();
  c.store.truncate(a, c.store.length(a));
  CHECK(c.store.used_pages() == 6);
  CHECK(c.store.length(a) == 32);
  c.truncate(a, 10);
  CHECK(c.store.length(a) == 10);
  CHECK(c.store.used_pages() == 6);
  c.sweep({{a, 3}});
}

TEST_CASE("a fork shares full pages and copies the one that both will write to", "[runtime]") {
  Cache c(KvOptions::in_memory(kLayers, kLayout, 1_MiB));
  const SequenceId a = c.create();
  c.sweep({{a, 70}});
  REQUIRE(c.store.used_pages() == 18);
  const SequenceId b = c.fork(a);
  CHECK(c.store.length(b) == 70);
  CHECK(c.store.used_pages() == 18 + 6);
  const SweepPlan plan{{{{span_of(a, 70, 1), span_of(b, 70, 1)}}}};
  c.store.begin_sweep(plan);
  const KvView& v = c.store.acquire(0, 0);
  CHECK(v.spans[0].k_pages[0] == v.spans[1].k_pages[0]);
  CHECK(v.spans[0].k_pages[1] == v.spans[1].k_pages[1]);
  CHECK(v.spans[0].v_pages[2] != v.spans[1].v_pages[2]);
  c.store.abort_sweep();
  c.sweep({{a, 1}, {b, 1}});
  c.drop(a);
  CHECK(c.store.used_pages() == 18);
  c.sweep({{b, 1}});
  const SequenceId d = c.fork(b);
  c.truncate(d, 40);  // page 1 is full for b alone
  c.sweep({{d, 3}, {b, 1}});
  c.sweep({{b, 1}, {d, 1}});
  CHECK(c.store.used_pages() == 18 + 6);
  c.drop(b);
  c.drop(d);
  check_empty(c.store);

  const SequenceId e = c.create();
  c.sweep({{e, 64}});  // ends with a page: nothing to copy
  c.fork(e);
  CHECK(c.store.used_pages() == 12);
}

TEST_CASE("more than memory holds without a spill file is the caller's bug", "[runtime]") {
  Cache c(KvOptions::in_memory(kLayers, kLayout, 17 * 4096));
  const SequenceId a = c.create();
  c.sweep({{a, 64}});
  CHECK_FAULT(c.sweep({{a, 1}}), Fault::internal, "all 17 pages of the KV cache are in use, 0 of them on disk");
  KvOptions bad = KvOptions::in_memory(kLayers, kLayout, 1_MiB);
  bad.disk_pages = 4;
  CHECK_FAULT(KvStore(bad), Fault::internal, "4 slots without a file");
  bad = KvOptions::in_memory(kLayers, kLayout, 16_KiB);
  bad.staging_frames = 5;
  CHECK_FAULT(KvStore(bad), Fault::internal, "5 and 0 of 4 frames");
}

TEST_CASE("every position keeps what was written, wherever pages lie and however few frames there are", "[runtime]") {
  struct Setting {
    size_t frames, staging;
    double share;
    bool overlap;
  };
  const std::vector<Setting> settings{{400, 0, 1, true},   {400, 60, 0, true},   {400, 60, 0.5, true}, {400, 14, 0.5, true}, {400, 12, 0, true},
                                      {400, 60, 0, false}, {400, 12, 0, false},  {60, 12, 0, true},    {60, 12, 0.3, false}, {40, 3, 0, true},
                                      {60, 12, 1, true},   {500, 300, 0.7, true}, {44, 12, 0.9, true}};
  for (const Setting& s : settings)
    for (const uint32_t seed : {1u, 2u}) {
      CAPTURE(s.frames, s.staging, s.share, s.overlap, seed);
      Disk disk(400, seed);
      ThreadPool pool(2);
      KvOptions o = disk.options(s.frames, s.staging, s.share, s.overlap);
      if (seed == 2) o.pool = &pool, o.asked_bytes = 3 * 4096;
      std::vector<std::byte> memory(s.frames * 4096 + 4096);
      if (seed == 2) o.memory = std::span(memory).subspan(4096 - reinterpret_cast<uintptr_t>(memory.data()) % 4096);
      Cache c(o);
      life(c);
      const KvStatistics k = c.store.statistics();
      if (s.frames >= 400 && s.share < 1)
        CHECK(std::abs(static_cast<double>(k.full_pages_in_memory) - s.share * static_cast<double>(k.full_pages)) < 3);
      if (s.share < 1) CHECK(k.bytes_read > 0);
      if (s.frames == 400 && s.share == 1) CHECK(k.bytes_written == 0);
      CHECK(k.reread_pages == 0);
      CHECK(k.peak_memory_bytes + k.peak_disk_bytes >= k.memory_bytes + k.disk_bytes);
      while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
      check_empty(c.store);
    }
}

namespace {

struct Split {
  size_t device, host, disk;  // pages
  size_t staging;
  TierShare share;
  bool overlap = true, attend_on_host = false;
};

// life() on a card, and what came of it
KvStatistics life_on_card(const Split& s, Lateness lateness, uint32_t seed) {
  KvTiers tiers({.lateness = lateness, .seed = seed, .device = s.device, .host = s.host, .disk = s.disk});
  CardCache c(tiers, tiers.options(s.staging, s.share, s.overlap, s.attend_on_host));
  life(c);
  const KvStatistics k = c.store.statistics();
  CHECK((c.positions_on_host > 0) == (s.attend_on_host && s.share.host > 0));
  CHECK(k.memory_bytes + k.host_bytes + k.disk_bytes == c.store.used_pages() * c.store.page_bytes());
  CHECK(k.reread_pages == 0);
  if (s.attend_on_host && s.device == 400 && s.disk == 0) {  // what was written to the host does not come back
    c.store.settle();
    const uint64_t before = c.store.statistics().bytes_from_host;
    std::vector<std::pair<SequenceId, int64_t>> all;
    for (const auto& [id, tokens] : c.tokens) all.emplace_back(id, 1);
    c.sweep(all);
    CHECK(c.store.statistics().bytes_from_host == before);
  }
  while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
  check_empty(c.store);
  return k;
}

}  // namespace

TEST_CASE("on a card every position keeps what was written, however pages are split over three tiers", "[runtime]") {
  const std::vector<Split> splits{{400, 0, 0, 0, {1, 0}},          {400, 400, 0, 60, {0, 1}},           {400, 0, 400, 60, {0, 0}},
                                  {400, 400, 400, 60, {0.3, 0.4}}, {60, 400, 400, 12, {0.2, 0.5}},      {60, 300, 100, 12, {0, 0.7}, false},
                                  {40, 400, 200, 3, {0, 0.5}},     {400, 400, 400, 60, {0.2, 0}, false}, {44, 100, 300, 12, {0.9, 0.05}},
                                  {60, 20, 400, 12, {0, 1}},       {60, 400, 20, 12, {0, 0}}};
  for (const Split& s : splits)
    for (const auto& [lateness, seed] : {std::pair{Lateness::late, 1u}, {Lateness::early, 2u}, {Lateness::random, 3u}, {Lateness::random, 4u}}) {
      CAPTURE(s.device, s.host, s.disk, s.staging, s.share.device, s.share.host, s.overlap, seed);
      const KvStatistics k = life_on_card(s, lateness, seed);
      CHECK((k.bytes_from_host > 0) == (s.host > 0 && (s.share.host > 0 || s.disk < 100)));
      CHECK((k.bytes_read > 0) == (s.disk > 0 && (s.share.device + s.share.host < 1 || s.host < 100)));
      if (s.device < 400 || s.host + s.disk < 400) continue;
      const auto near = [&](uint64_t pages, double share) {
        return std::abs(static_cast<double>(pages) - share * static_cast<double>(k.full_pages)) < 3;
      };
      CHECK(near(k.full_pages_in_memory, s.share.device));
      CHECK(near(k.full_pages_on_host, s.share.host));
    }
}

TEST_CASE("pages that are attended on the host stay there, a sequence's first ones, K and V alike", "[runtime]") {
  const std::vector<Split> splits{{400, 400, 0, 60, {0, 1}, true, true},          {400, 400, 0, 60, {0.5, 0.5}, false, true},
                                  {400, 400, 400, 60, {0.3, 0.4}, true, true},    {400, 400, 400, 60, {0, 0.5}, true, true},
                                  {400, 400, 400, 60, {0.1, 0.2}, false, true},   {70, 400, 400, 12, {0.2, 0.5}, true, true},
                                  {400, 100, 400, 60, {0.2, 0.8}, true, true}};
  for (const Split& s : splits)
    for (const auto& [lateness, seed] : {std::pair{Lateness::late, 1u}, {Lateness::early, 2u}, {Lateness::random, 3u}, {Lateness::random, 4u}}) {
      CAPTURE(s.device, s.host, s.disk, s.staging, s.share.device, s.share.host, s.overlap, seed);
      const KvStatistics k = life_on_card(s, lateness, seed);
      if (s.device < 400 || s.host < 400) continue;
      CHECK(std::abs(static_cast<double>(k.full_pages_on_host) - s.share.host * static_cast<double>(k.full_pages)) < 5);
    }
}
