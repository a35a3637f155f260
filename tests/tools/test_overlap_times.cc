// SPDX-License-Identifier: Apache-2.0
#include "bench/overlap_times.h"

#include "support/catch.h"

using namespace flexgen::bench;

TEST_CASE("how full the ring was, of reads and uses drawn by hand", "[tools]") {
  // a ring of 4 bytes for 10 s; two chunks of one byte, and a byte read ahead for another pass that comes after its end
  const std::vector<ReadTime> reads{{1, 0, 2}, {1, 1, 3}, {1, 8, 12}};
  const std::vector<ChunkTime> chunks{{0, 1, 0, 2, 5}, {1, 1, 5, 5, 9}};
  const SlotShares s = slot_shares(reads, chunks, 4, 10);
  CHECK(s.filling == Approx((2 + 2 + 2) / 40.0));
  CHECK(s.ready == Approx((0 + 2) / 40.0));
  CHECK(s.in_use == Approx((3 + 4) / 40.0));
  CHECK(s.free == Approx(1 - 15 / 40.0));
}

TEST_CASE("layers last from the first part asked for to the last one done with", "[tools]") {
  const std::vector<ChunkTime> chunks{{0, 1, 0, 1, 2}, {0, 1, 2, 2.5, 3}, {1, 1, 3, 4, 7}};
  CHECK(layer_seconds(chunks) == std::vector<double>{3, 4});
  CHECK(first_layer_there(chunks) == 2.5);
}

TEST_CASE("percentiles of a few values", "[tools]") {
  std::vector<double> v;
  for (int i = 200; i > 0; --i) v.push_back(i);
  const Percentiles p = percentiles(v);
  CHECK(p.p50 == 101);
  CHECK(p.p99 == 199);
  CHECK(p.max == 200);
  CHECK(percentiles({}).max == 0);
}
