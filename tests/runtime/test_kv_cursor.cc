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
