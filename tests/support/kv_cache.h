// SPDX-License-Identifier: Apache-2.0
// A KV store whose sequences know what they should hold, a disk for it that can misbehave, and a life to lead on both.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "flexgen/runtime/kv_store.h"
#include "support/catch.h"
#include "support/fake_io_engine.h"

namespace flexgen::testing {

inline constexpr int64_t kLayers = 3, kPage = 32;
inline constexpr KvLayout kLayout{DType::f32, 2, 16, kPage};  // 4 KiB pages

inline Span span_of(SequenceId id, int64_t first, int64_t n) { return {id, std::vector<int32_t>(static_cast<size_t>(n)), first, n}; }

// A store, what its sequences should hold, and sweeps that write and check it. Where frames are a device's, whoever makes it says how
// work is launched on the stream, and how it is waited for.
struct Cache {
  explicit Cache(KvOptions options) : store(std::move(options)) {}

  std::function<void(std::function<void()>)> launch = [](const std::function<void()>& now) { now(); };
  std::function<void()> finish = [] {};
  std::atomic<int> wrong{0};  // positions
  int64_t positions_on_host = 0;  // attended there

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
      finish();
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
    CHECK(wrong == 0);
  }

  void run(const SweepPlan& plan, int64_t layer, size_t m) {
    const auto& spans = plan.micro_batches[m].spans;
    size_t done = 0;
    for (bool last = false; !last;) {
      const KvView& v = store.acquire(layer, m);
      last = v.last;
      ++groups;
      REQUIRE(!v.spans.empty());
      REQUIRE((v.host_ranges.empty() || v.host_ranges.size() == v.spans.size()));
      for (size_t i = 0; i < v.spans.size(); ++i) {
        const KvSpan& k = v.spans[i];
        const Span& s = spans.at(done++);
        REQUIRE(k.n_tok == s.n_tok());
        REQUIRE(k.first_position == s.first_position);
        const int64_t behind = v.host_ranges.empty() ? 0 : v.host_ranges[i].end, pages = div_up(s.end(), kPage);
        if (!v.host_ranges.empty()) {
          REQUIRE((v.host_ranges[i].begin == 0 && v.ranges[i].begin == behind && v.ranges[i].end == s.end() && behind <= s.first_position));
          REQUIRE((behind == 0 || v.spans[i].k_pages[0] == nullptr));
          positions_on_host += behind;
          const KvSpan& h = v.host_spans[i];
          work(Work{s, layer, 0, behind, committed(s), list(h.k_pages, behind / kPage), list(h.v_pages, behind / kPage)});
        }
        Work on_device{s, layer, behind, s.end(), committed(s), list(k.k_pages, pages), list(k.v_pages, pages)};
        launch([this, w = std::move(on_device)] { work(w); });
      }
      store.release();
    }
    REQUIRE(done == spans.size());
  }

  // What is done with a span's pages: the tokens of this sweep are written, those from before are compared. Positions [begin, end)
  struct Work {
    Span span;
    int64_t layer, begin, end;
    std::vector<int32_t> before;
    std::vector<std::byte*> k_pages, v_pages;
  };
  void work(const Work& w) {
    for (int kind = 0; kind < 2; ++kind) {
      const auto& pages = kind == 0 ? w.k_pages : w.v_pages;
      const auto at = [&](int64_t p) { return reinterpret_cast<float*>(pages[static_cast<size_t>(p / kPage)]) + p % kPage * 16; };
      for (int64_t p = w.begin; p < w.end; ++p) {
        if (p >= w.span.first_position) {
          std::fill_n(at(p), 16, mark(w.span.tokens[static_cast<size_t>(p - w.span.first_position)], w.layer, kind));
        } else if (p < static_cast<int64_t>(w.before.size())) {  // tokens of this sweep stand in no list yet
          const float want = mark(w.before[static_cast<size_t>(p)], w.layer, kind);
          if (at(p)[0] != want || at(p)[15] != want) ++wrong;
        }
      }
    }
  }
  const std::vector<int32_t>& committed(const Span& s) { return tokens[s.sequence]; }
  static std::vector<std::byte*> list(std::byte* const* pages, int64_t n) { return {pages, pages + n}; }

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
  explicit Disk(size_t pages, uint32_t seed = 1, FakeFaults faults = {}) : file(spill_file(pages * 4096)), io(seed, std::move(faults)), n(pages) {}
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

inline void check_empty(KvStore& store) {
  store.settle();
  CHECK(store.used_pages() == 0);
  CHECK(store.used_frames() == 0);
  CHECK(store.used_slots() == 0);
  CHECK(store.statistics().full_pages == 0);
  CHECK(store.statistics().full_pages_in_memory == 0);
  CHECK(store.statistics().full_pages_on_host == 0);
}

// Prompts, cut ones too, single tokens, forks, cuts and ends, in the same order whatever the store
inline void life(Cache& c) {
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

}  // namespace flexgen::testing
