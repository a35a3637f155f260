// SPDX-License-Identifier: Apache-2.0
#include "flexgen/engine/flow_statistics.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("the parts' counts become stages and tiers, and differences of them", "[engine]") {
  SweepStatistics sweep{.compute_s = 6, .cache_bytes = 1000, .hidden_bytes = 500};
  HiddenStatistics hidden{.bytes_read = 200, .bytes_written = 300, .reread = 1, .wait_disk_s = 0.5};
  WeightStatistics weights{
      .loaded_bytes = 99, .streamed_bytes = 4000, .resident_bytes = 6000, .reread_blocks = 2, .wait_disk_s = 1.25, .verify_s = 0.75};
  const KvStatistics cache{.bytes_read = 100, .bytes_written = 70, .reread_pages = 4, .wait_disk_s = 0.25, .wait_slot_s = 0.5, .verify_s = 0.25};
  IoStatistics io{
      .bytes_read = 4299, .bytes_written = 300, .short_transfers = 3, .retries = 4, .busy_s = 8, .reading_s = 7, .writing_s = 2, .byte_seconds = 80};
  FlowStatistics f = flow_statistics(sweep, hidden, weights, cache, io);
  f.elapsed_s = 10;
  CHECK(f.wait_disk_s == 2);
  CHECK(f.wait_slot_s == 0.5);
  CHECK(f.verify_s == 1);
  CHECK(f.reread == 7);
  CHECK(f.weights.memory == 6000);
  CHECK(f.weights.disk == 4000);
  CHECK(f.cache.memory == 900);
  CHECK(f.cache.disk == 100);
  CHECK(f.cache.written == 70);
  CHECK(f.activations.memory == 300);
  CHECK(f.activations.disk == 200);
  CHECK(f.activations.written == 300);
  CHECK(f.share_of_roof() == Approx(0.8));
  CHECK(std::string_view(f.roof()) == "disk");
  CHECK(f.disk_idle_s() == Approx(2));
  CHECK(f.other_s() == Approx(0.5));  // 10 - 6 - 1 - 2 - 0.5

  const FlowStatistics before = f;
  sweep.compute_s = 20, weights.streamed_bytes = 5000, weights.resident_bytes = 7500, io.busy_s = 9, io.bytes_read = 5299, io.retries = 5;
  FlowStatistics later = flow_statistics(sweep, hidden, weights, cache, io);
  later.elapsed_s = 30;
  const FlowStatistics between = later - before;
  CHECK(between.elapsed_s == 20);
  CHECK(between.compute_s == 14);
  CHECK(between.share_of_roof() == Approx(0.7));
  CHECK(std::string_view(between.roof()) == "compute");
  CHECK(between.weights.disk == 1000);
  CHECK(between.weights.memory == 1500);
  CHECK(between.bytes_read == 1000);
  CHECK(between.retries == 1);
  CHECK(between.wait_disk_s == 0);
  const FlowStatistics sum = between + before;
  CHECK(sum.elapsed_s == later.elapsed_s);
  CHECK(sum.byte_seconds == later.byte_seconds);
  CHECK(sum.bytes_read == later.bytes_read);
  CHECK(sum.activations.written == later.activations.written);
  CHECK(FlowStatistics{}.share_of_roof() == 0);

  FlowStatistics products{.products = {10, 20, 30}};
  products = products - FlowStatistics{.products = {1, 2, 3}};
  CHECK((products.products.library == 9 && products.products.few_tokens == 18 && products.products.unfit == 27));
}
