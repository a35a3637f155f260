// SPDX-License-Identifier: Apache-2.0
// The store alone: pages come, go, are shared, and lie in memory or in the spill file; every position must still hold what was written
// to it, whatever the number of frames, and whatever the disk does.
#include "flexgen/runtime/kv_store.h"

#include <map>
#include <set>

#include "support/errors.h"
#include "support/fake_io_engine.h"

using namespace flexgen;
using testing::FakeIoEngine;

namespace {

constexpr int64_t kLayers = 3, kPage = 32;
const KvLayout kLayout{DType::f32, 2, 16, kPage};  // 4 KiB pages

Span span_of(SequenceId id, int64_t first, int64_t n) { return {id, std::vector<int32_t>(static_cast<size_t>(n)), first, n}; }

// A store, what its sequences should hold, and sweeps that write and check it
struct Cache {
  explicit Cache(KvOptions options) : store(std::move(options)) {}

  // one mark a position, in layer and kind
  static float mark(int32_t token, int64_t layer, int kind) { return static_cast<float>(token * 8 + layer * 2 + kind); }

  void sweep(const std::vector<std::pair<SequenceId, int64_t>>& grow, int64_t max_spans = 4, int64_t max_tokens = 1000) {
    std::vector<Span> spans;
    for (const auto& [id, n] : grow) {
      Span s = span_of(id, store.length(id), n);
      for (int32_t& t : s.tokens) t = next_token++ % 100000;
      spans.push_back(std::move(s));
    }
    const SweepPlan plan = pack(std::move(spans), max_spans, max_tokens);
    try {
      store.begin_sweep(plan);
      for (int64_t layer = 0; layer < kLayers; ++layer)
        for (size_t m = 0; m < plan.micro_batches.size(); ++m) run(plan, layer, m);
      store.end_sweep();
    } catch (...) {
      store.abort_sweep();
      for (const auto& [id, n] : grow) store.truncate(id, store.length(id));
      throw;
    }
    for (const MicroBatch& b : plan.micro_batches)
      for (const Span& s : b.spans) {
        store.commit(s.sequence, s.n_tok());
        tokens[s.sequence].insert(tokens[s.sequence].end(), s.tokens.begin(), s.tokens.end());
      }
  }

  void run(const SweepPlan& plan, int64_t layer, size_t m) {
    const auto& spans = plan.micro_batches[m].spans;
    size_t done = 0;
    for (bool last = false; !last;) {
      const KvView& v = store.acquire(layer, m);
      last = v.last;
      ++groups;
      REQUIRE(!v.spans.empty());
      for (const KvSpan& k : v.spans) {
        const Span& s = spans.at(done++);
        REQUIRE(k.n_tok == s.n_tok());
        REQUIRE(k.first_position == s.first_position);
        for (int kind = 0; kind < 2; ++kind) {
          std::byte* const* pages = kind == 0 ? k.k_pages : k.v_pages;
          const auto at = [&](int64_t position) { return reinterpret_cast<float*>(pages[position / kPage]) + position % kPage * 16; };
          for (int64_t i = 0; i < s.n_tok(); ++i) std::fill_n(at(s.first_position + i), 16, mark(s.tokens[static_cast<size_t>(i)], layer, kind));
          // tokens of this sweep stand in no list yet
          const auto& old = tokens[s.sequence];
          bool right = true;
          for (int64_t i = 0; i < std::min<int64_t>(static_cast<int64_t>(old.size()), s.first_position); ++i) {
            const float want = mark(old[static_cast<size_t>(i)], layer, kind);
            right &= at(i)[0] == want && at(i)[15] == want;
          }
          CHECK(right);
        }
      }
      store.release();
    }
    REQUIRE(done == spans.size());
  }

  SequenceId create() { return store.create(); }
  SequenceId fork(SequenceId id) {
    const SequenceId to = store.fork(id);
    tokens[to] = tokens[id];
    return to;
  }
  void truncate(SequenceId id, int64_t n) {
    store.truncate(id, n);
    tokens[id].resize(static_cast<size_t>(n));
  }
  void drop(SequenceId id) {
    store.drop(id);
    tokens.erase(id);
  }

  KvStore store;
  std::map<SequenceId, std::vector<int32_t>> tokens;
  int32_t next_token = 1;
  size_t groups = 0;
};

// A spill file behind a fake device
struct Disk {
  explicit Disk(size_t pages, uint32_t seed = 1, testing::FakeFaults faults = {}) : file(testing::spill_file(pages * 4096)), io(seed, std::move(faults)), n(pages) {}
  KvOptions options(size_t frames, size_t staging, double share, bool overlap = true) {
    KvOptions o;
    o.n_layers = kLayers;
    o.layout = kLayout;
    o.frames = frames;
    o.disk_pages = n;
    o.staging_frames = staging;
    o.memory_share = share;
    o.overlap = overlap;
    o.io = &io;
    o.spill_fd = file.get();
    o.spill_name = "/spill/file";
    return o;
  }
  Fd file;
  FakeIoEngine io;
  size_t n;
};

void check_empty(KvStore& store) {
  store.settle();
  CHECK(store.used_pages() == 0);
  CHECK(store.used_frames() == 0);
  CHECK(store.used_slots() == 0);
  CHECK(store.statistics().full_pages == 0);
  CHECK(store.statistics().full_pages_in_memory == 0);
}

// Prompts, cut ones too, single tokens, forks, cuts and ends, in the same order whatever the store
void life(Cache& c) {
  const SequenceId a = c.create(), b = c.create(), d = c.create();
  c.sweep({{a, 70}, {b, 33}, {d, 5}});
  c.sweep({{a, 1}, {b, 100}, {d, 27}}, 2, 24);  // b is cut into several micro-batches of one sweep
  for (int i = 0; i < 5; ++i) c.sweep({{a, 1}, {b, 1}, {d, 1}}, 2);
  const SequenceId e = c.fork(a), f = c.fork(b);
  c.sweep({{a, 20}, {e, 3}, {f, 31}, {b, 1}, {d, 1}}, 3);
  c.truncate(b, 40);  // into a full page
  c.truncate(e, 64);  // to the end of one
  c.truncate(f, 10);  // into one that b shares
  c.sweep({{a, 1}, {b, 1}, {e, 1}, {f, 1}}, 4);
  c.drop(a);
  c.sweep({{b, 60}, {d, 64}, {e, 1}, {f, 40}}, 2, 50);
  for (int i = 0; i < 3; ++i) c.sweep({{b, 1}, {d, 1}, {e, 1}, {f, 1}}, 2);
}

// the same in little
void short_life(Cache& c) {
  const SequenceId a = c.create(), b = c.create();
  c.sweep({{a, 40}, {b, 33}});
  c.sweep({{a, 1}, {b, 40}}, 2, 24);
  const SequenceId e = c.fork(a);
  c.sweep({{a, 24}, {e, 1}, {b, 1}}, 2);
  c.truncate(b, 40);
  c.drop(a);
  c.sweep({{b, 30}, {e, 30}}, 1);
  c.sweep({{b, 1}, {e, 1}});
}

}  // namespace

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
      if (seed == 2) o.pool = &pool;
      std::vector<std::byte> memory(s.frames * 4096 + 4096);
      if (seed == 2) o.memory = std::span(memory).subspan(4096 - reinterpret_cast<uintptr_t>(memory.data()) % 4096);
      Cache c(o);
      life(c);
      const KvStatistics k = c.store.statistics();
      if (s.frames >= 400 && s.share < 1) CHECK(std::abs(static_cast<double>(k.full_pages_in_memory) - s.share * static_cast<double>(k.full_pages)) < 3);
      if (s.share < 1) CHECK(k.bytes_read > 0);
      if (s.frames == 400 && s.share == 1) CHECK(k.bytes_written == 0);
      CHECK(k.reread_pages == 0);
      CHECK(k.peak_memory_bytes + k.peak_disk_bytes >= k.memory_bytes + k.disk_bytes);
      while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
      check_empty(c.store);
    }
}

TEST_CASE("pages are read ahead as far as staging frames go, and only on demand without overlap", "[runtime]") {
  for (const bool overlap : {true, false}) {
    CAPTURE(overlap);
    Disk disk(200);
    Cache c(disk.options(200, 18, 0, overlap));
    const SequenceId a = c.create(), b = c.create();
    c.sweep({{a, 96}, {b, 96}});  // 6 pages of each in a layer
    c.store.settle();
    const int64_t written = disk.io.submitted();
    CHECK(written == 36);
    CHECK(c.store.used_frames() == 0);
    const SweepPlan plan{{{{span_of(a, 96, 1)}}, {{span_of(b, 96, 1)}}}};
    c.store.begin_sweep(plan);
    const KvView* v = &c.store.acquire(0, 0);
    CHECK(v->last);
    CHECK(disk.io.submitted() - written == (overlap ? 18 : 6));
    c.store.release();
    CHECK(disk.io.submitted() - written == (overlap ? 24 : 6));
    v = &c.store.acquire(0, 1);
    CHECK(disk.io.submitted() - written == (overlap ? 24 : 12));
    c.store.abort_sweep();
    CHECK(c.store.used_frames() == 4);  // the new pages
  }
}

TEST_CASE("a page damaged on its way is read again; one damaged on disk is named", "[runtime]") {
  Disk disk(400, 3, {.flip = {0, 7, 20}});
  Cache c(disk.options(400, 60, 0));
  life(c);
  CHECK(c.store.statistics().reread_pages == 3);

  for (const bool misplaced : {false, true}) {
    Disk bad(400, 4);
    Cache d(bad.options(400, 60, 0));
    const SequenceId a = d.create();
    d.sweep({{a, 70}});
    d.store.settle();
    std::vector<std::byte> page(4096);
    REQUIRE(::pread(bad.file.get(), page.data(), 4096, misplaced ? 0 : 5 * 4096) == 4096);
    if (!misplaced) page[4095] ^= std::byte{0x80};
    REQUIRE(::pwrite(bad.file.get(), page.data(), 4096, 5 * 4096) == 4096);
    // slots were given out page by page, K before V: 5 is V of the second page of layer 1
    CHECK_FAULT(d.sweep({{a, 1}}), Fault::damaged,
                "/spill/file: V of positions 0 to 31 of sequence 1 in layer 1 at offset 20480 is not what was written there, twice read");
    CHECK_FAULT(d.sweep({{a, 1}}), Fault::damaged, "twice read");
    const SequenceId b = d.create();
    d.sweep({{b, 100}});  // others go on
    d.sweep({{b, 100}});
    d.drop(a);
    d.drop(b);
    check_empty(d.store);
  }
}

TEST_CASE("a fork copies a last page that lies on disk, and a damaged one is seen", "[runtime]") {
  for (const int fault : {0, 1, 2, 3}) {
    CAPTURE(fault);
    Disk disk(400, 5);
    Cache c(disk.options(400, 60, 0));
    const SequenceId a = c.create();
    c.sweep({{a, 96}});
    c.truncate(a, 80);
    c.store.settle();
    REQUIRE(c.store.used_frames() == 0);
    if (fault == 1) disk.io.set_faults({.flip = {2}});
    if (fault == 2) disk.io.set_faults({.flip = {2, 6}});
    if (fault == 3) disk.io.set_faults({.fail_from = 20, .fail_until = 21, .error = EBADF});
    if (fault < 2) {
      const SequenceId b = c.fork(a);
      CHECK(c.store.statistics().reread_pages == static_cast<uint64_t>(fault));
      c.sweep({{a, 30}, {b, 3}});
      c.drop(b);
    } else if (fault == 2) {
      CHECK_FAULT(c.fork(a), Fault::damaged, "of positions 64 to 95 of sequence 2 in layer");
    } else {
      CHECK_FAULT(c.fork(a), Fault::io, "Bad file descriptor");
    }
    c.sweep({{a, 1}});
    c.drop(a);
    check_empty(c.store);
  }
}

TEST_CASE("whichever request fails once, the store goes on; where all fail, it ends cleanly", "[runtime]") {
  struct Setting {
    size_t frames, staging;
    double share;
    bool overlap;
  };
  for (const Setting& s : {Setting{400, 60, 0, true}, {44, 12, 0.3, true}, {44, 12, 0.5, false}}) {
    Disk whole(400);
    {
      Cache c(whole.options(s.frames, s.staging, s.share, s.overlap));
      short_life(c);
    }
    const int64_t n = whole.io.submitted();
    REQUIRE(n > 30);
    size_t failures = 0;
    for (const bool lasting : {false, true})
      for (int64_t at = 0; at < n; at += FLEXGEN_SANITIZED ? 7 : 1) {
        CAPTURE(s.frames, lasting, at);
        Disk disk(400, static_cast<uint32_t>(at + 1), {.fail_from = at, .fail_until = lasting ? INT64_MAX : at + 1});
        Cache c(disk.options(s.frames, s.staging, s.share, s.overlap));
        bool failed = false;
        try {
          short_life(c);
        } catch (const Error& e) {
          failed = true;
          CHECK(e.fault() == Fault::io);
          CHECK_THAT(e.what(), Catch::Contains("/spill/file: ") && Catch::Contains(" at offset ") && Catch::Contains(": Input/output error. Check the disk"));
        }
        failures += failed;  // not each: a page that was not written stays in memory, and may never be read again
        // pages that could not be written are still in memory: what is committed is whole
        disk.io.set_faults({});
        std::vector<std::pair<SequenceId, int64_t>> all;
        for (const auto& [id, tokens] : c.tokens) all.emplace_back(id, 1);
        if (!all.empty()) c.sweep(all);
        while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
      }
    CHECK(failures > 10);
  }
}

TEST_CASE("pages that a full disk refuses stay in memory", "[runtime]") {
  Disk disk(400, 6);
  Cache c(disk.options(400, 60, 0));
  const SequenceId a = c.create();
  c.sweep({{a, 96}});
  c.store.settle();
  disk.io.set_faults({.fail_from = 0, .fail_until = INT64_MAX, .error = ENOSPC});
  CHECK_FAULT(c.sweep({{a, 1}}), Fault::io, "/spill/file: reading K of positions 0 to 31 of sequence 1 in layer 0 at offset 0: No space left on device");
  disk.io.set_faults({});
  const SequenceId b = c.create();
  c.sweep({{b, 1}});
  disk.io.set_faults({.fail_from = 0, .fail_until = INT64_MAX, .error = ENOSPC});
  disk.io.hold(true);
  c.sweep({{b, 70}});  // two pages of each list are full, their writes under way
  CHECK(c.store.statistics().full_pages_in_memory == 0);
  disk.io.hold(false);
  disk.io.drain();
  CHECK_FAULT(c.sweep({{b, 1}}), Fault::space,
              "of sequence 2 in layer 0 at offset 73728: No space left on device. Free space on that disk or give the KV cache more memory");
  CHECK(c.store.statistics().full_pages_in_memory == 12);
  disk.io.set_faults({});
  c.sweep({{a, 1}, {b, 1}});
  c.drop(a);
  c.drop(b);
  check_empty(c.store);
}

TEST_CASE("made-up content is the same for the same seed, wherever it lies", "[runtime]") {
  const auto content = [](KvOptions o, uint64_t seed, int64_t n) {
    KvStore store(std::move(o));
    const SequenceId a = store.create(), b = store.create();
    store.fill_synthetic(a, n, seed);
    store.fill_synthetic(b, n, seed + 1);
    CHECK(store.length(a) == n);
    CHECK(store.used_pages() == 2 * store.pages_for(n));
    std::vector<float> values;
    const SweepPlan plan{{{{span_of(b, n, 1), span_of(a, n, 1)}}}};
    store.begin_sweep(plan);
    for (int64_t layer = 0; layer < kLayers; ++layer)
      for (bool last = false; !last; store.release()) {
        const KvView& v = store.acquire(layer, 0);
        last = v.last;
        for (const KvSpan& s : v.spans)
          for (int64_t p = 0; p < div_up(n, kPage); ++p)
            for (std::byte* const* pages : {s.k_pages, s.v_pages}) values.insert(values.end(), reinterpret_cast<float*>(pages[p]), reinterpret_cast<float*>(pages[p]) + 1024);
      }
    store.end_sweep();
    return values;
  };
  const auto want = content(KvOptions::in_memory(kLayers, kLayout, 1_MiB), 7, 100);
  CHECK(*std::min_element(want.begin(), want.end()) >= -0.25f);
  CHECK(*std::max_element(want.begin(), want.end()) < 0.25f);
  CHECK(std::set<float>(want.begin(), want.end()).size() > 1000);
  Disk disk(200);
  CHECK(content(disk.options(200, 30, 0.5), 7, 100) == want);
  Disk small(200);
  CHECK(content(small.options(40, 12, 0), 7, 100) == want);
  CHECK(content(KvOptions::in_memory(kLayers, kLayout, 1_MiB), 8, 100) != want);
  KvStore store(KvOptions::in_memory(kLayers, kLayout, 1_MiB));
  const SequenceId a = store.create();
  store.fill_synthetic(a, 5, 1);
  CHECK_FAULT(store.fill_synthetic(a, 5, 1), Fault::internal, "has tokens");
}
