// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_cursor.h"

#include "support/kv_cache.h"

using namespace flexgen;
using namespace flexgen::testing;

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

TEST_CASE("no more is asked for at a time than the disk needs", "[runtime]") {
  Disk disk(200);
  KvOptions o = disk.options(200, 36, 0);
  o.asked_bytes = 4 * 4096;
  Cache c(std::move(o));
  const SequenceId a = c.create(), b = c.create();
  c.sweep({{a, 96}, {b, 96}});
  c.store.settle();
  const int64_t written = disk.io.submitted();
  const SweepPlan plan{{{{span_of(a, 96, 1)}}, {{span_of(b, 96, 1)}}}};
  disk.io.hold(true);
  c.store.begin_sweep(plan);
  c.store.advance();
  CHECK(disk.io.submitted() - written == 4);
  disk.io.hold(false);
  c.store.acquire(0, 0);  // the first one's other two pages as well: somebody waits for them
  CHECK(disk.io.submitted() - written >= 6);
  for (int i = 0; i < 1000 && disk.io.submitted() - written < 36; ++i) c.store.advance(), std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(disk.io.submitted() - written == 36);  // all layers
  c.store.abort_sweep();
}

TEST_CASE("pages for the next sweep are read while this one ends, and given up where it goes otherwise", "[runtime]") {
  for (const int change : {0, 1, 2, 3, 4}) {
    CAPTURE(change);
    Disk disk(200);
    Cache c(disk.options(200, 12, 0));
    SequenceId a = c.create(), b = c.create();
    c.sweep({{a, 96}, {b, 96}});
    c.store.settle();
    c.sweep({{a, 1}, {b, 1}});  // 36 pages, and the 12 of layer 0 once more
    int64_t before = disk.io.submitted();
    CHECK(before == 36 + 36 + 12);
    CHECK(c.store.used_frames() == 12 + 12);  // and the pages that are not full
    if (change == 1) c.drop(a), a = 0;
    if (change == 2) c.truncate(b, 40);
    if (change == 3) c.fork(a);
    if (change == 4) c.store.settle();
    CHECK(c.store.used_frames() == (change == 0 ? 24 : change == 1 ? 12 : change == 2 ? 16 : change == 3 ? 18 : 12));
    std::vector<std::pair<SequenceId, int64_t>> grow{{b, 1}};
    if (a != 0) grow.insert(grow.begin(), {a, 1});
    c.sweep(grow);
    if (change == 0) CHECK(disk.io.submitted() - before == 36);  // each once, and again 12 ahead
    while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
    check_empty(c.store);
  }
}
