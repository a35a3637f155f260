// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_plan.h"

#include "support/errors.h"

using namespace flexgen;

namespace {
const KvLayout kOptLayout{DType::f16, 32, 128, 32};  // OPT-6.7B: 256 KiB pages

KvDemand demand(double share) { return {32, kOptLayout, 128, 160, 32, 512, share}; }
}  // namespace

TEST_CASE("a cache in memory takes its pages and nothing else", "[runtime]") {
  const KvRequirement r = kv_requirement(demand(1));
  CHECK(r.frame_bytes == 256_KiB);
  CHECK(r.memory_pages + r.unfilled_pages == 2 * 32 * 128 * 5);  // 160 tokens: 5 pages of K and of V
  CHECK(r.unfilled_pages == 2 * 32 * 128);
  CHECK(r.staging_in == 0);
  CHECK(r.staging_out == 0);
  CHECK(r.disk_pages == 0);
  CHECK(r.memory_bytes() == 2 * 32 * 128 * 5 * 256_KiB);
  KvDemand longer = demand(1);
  longer.tokens_per_sequence = 161;
  CHECK(kv_requirement(longer).frames() == 2 * 32 * 128 * 6);
}

TEST_CASE("one long sequence among short ones does not make all of them long", "[runtime]") {
  KvDemand ragged = demand(1);
  ragged.tokens_per_sequence = 2048;
  ragged.total_tokens = 2048 + 127 * 64;
  CHECK(kv_requirement(ragged).frames() == 2 * 32 * (64 + 127 * 2 + 128));  // and a page that is not full for each
  ragged.total_tokens = 0;
  CHECK(kv_requirement(ragged).frames() == 2 * 32 * 128 * 64);
  ragged.memory_share = 0;
  ragged.total_tokens = 2048 + 127 * 64;
  CHECK(kv_requirement(ragged).disk_pages == 2 * 32 * (64 + 127 * 2));
  CHECK(kv_requirement(ragged).smallest_staging_in == 2 * 64);  // the longest sequence's
}

TEST_CASE("what memory does not hold lies on disk, and passes through frames", "[runtime]") {
  const KvRequirement none = kv_requirement(demand(0));
  CHECK(none.memory_pages == 0);
  CHECK(none.unfilled_pages == 2 * 32 * 128);
  CHECK(none.disk_pages == 2 * 32 * 128 * 5);
  CHECK(none.smallest_staging_in == 10);
  CHECK(none.staging_in == 256);               // 64 MiB
  CHECK(none.staging_out == 2 * 2 * (16 + 32));  // 512 tokens fill 16 pages, each of 32 sequences one more

  for (const double share : {0.1, 0.25, 0.5, 0.9, 0.999}) {
    CAPTURE(share);
    const KvRequirement r = kv_requirement(demand(share));
    const size_t full = 2 * 32 * 128 * 5;
    CHECK(r.disk_pages >= static_cast<size_t>((1 - share) * full));
    CHECK(r.disk_pages <= static_cast<size_t>((1 - share) * full) + 1);
    CHECK(r.memory_pages + r.unfilled_pages + r.disk_pages >= full);
    CHECK(r.smallest_staging_in <= r.staging_in);
    CHECK(r.frames() * r.frame_bytes == r.memory_bytes());
    KvDemand off = demand(share);
    off.overlap = false;
    CHECK(kv_requirement(off).staging_in <= r.staging_in);
    CHECK(kv_requirement(off).staging_out <= r.staging_out);
  }

  KvDemand one = demand(0);
  one.n_sequences = 1;
  CHECK(kv_requirement(one).staging_in == 10);  // no more than there is in a layer
  one.tokens_per_sequence = 31;
  CHECK(kv_requirement(one).disk_pages == 0);  // no page is ever full
  CHECK(kv_requirement(one).frames() == 64);
  one.n_sequences = 0;
  CHECK(kv_requirement(one).frames() == 0);
  KvDemand wide = demand(0);
  wide.look_ahead_bytes = 1_GiB;
  CHECK(kv_requirement(wide).staging_in == 128 * 10);
  wide.look_ahead_bytes = 1_MiB;
  CHECK(kv_requirement(wide).staging_in == 2 * 10);  // one sequence while the next one's come
  wide.overlap = false;
  CHECK(kv_requirement(wide).staging_in == 10);
  CHECK_FAULT(kv_requirement(demand(1.5)), Fault::internal, "share of the memory 1.5");
  CHECK_FAULT(kv_requirement(KvDemand{}), Fault::internal, "0 layers");
}

TEST_CASE("with a device, slots are in host memory and on disk", "[runtime]") {
  const size_t full = 2 * 32 * 128 * 5;
  for (const double device : {0.0, 0.2, 0.5})
    for (const double host : {0.0, 0.1, 0.3, 0.5}) {
      CAPTURE(device, host);
      KvDemand d = demand(device);
      d.host_share = host;
      const KvRequirement r = kv_requirement(d), two = kv_requirement(demand(device));
      CHECK(std::abs(static_cast<double>(r.host_pages) - host * full) < 1);
      CHECK(std::abs(static_cast<double>(r.disk_pages) - (1 - device - host) * full) < 1);
      CHECK(r.memory_pages + r.unfilled_pages + r.host_pages + r.disk_pages >= full);
      CHECK(r.host_bytes() == r.host_pages * r.frame_bytes);
      CHECK(r.host_offset() == r.disk_bytes());
      CHECK(r.memory_pages == two.memory_pages);
      CHECK(r.staging_in == two.staging_in);  // wherever pages come from
      CHECK(r.staging_out == two.staging_out);
    }
  KvDemand no_disk = demand(0.1);
  no_disk.host_share = 0.9;
  CHECK(kv_requirement(no_disk).disk_pages == 0);
  CHECK(kv_requirement(no_disk).staging_in > 0);
  no_disk.host_share = 0.95;
  CHECK_FAULT(kv_requirement(no_disk), Fault::internal, "shares of 0.1 and 0.95");
}

TEST_CASE("pages that are attended on the host pass through no frames, and K and V have places alike", "[runtime]") {
  for (const double device : {0.0, 0.333, 0.5}) {
    CAPTURE(device);
    KvDemand d = demand(device);
    d.n_layers = 1;
    d.n_sequences = 3;
    d.host_share = 1 - device;
    const KvRequirement moving = kv_requirement(d);
    d.attend_on_host = true;
    const KvRequirement r = kv_requirement(d);
    CHECK(r.disk_pages == 0);
    CHECK(r.host_pages % 2 == 0);
    CHECK(r.memory_pages % 2 == 0);
    CHECK(r.host_pages >= moving.host_pages);
    CHECK(r.host_pages <= moving.host_pages + 1);
    CHECK(r.staging_in == 4);  // one sequence's that was cut: K and V
    CHECK(r.staging_in <= moving.staging_in);
    CHECK(r.staging_out >= moving.staging_out);
    d.host_share /= 2;
    const KvRequirement disk_too = kv_requirement(d);
    CHECK(disk_too.disk_pages % 2 == 0);
    CHECK(disk_too.disk_pages + disk_too.host_pages >= r.host_pages);
    CHECK(disk_too.staging_in >= r.staging_in);
  }
}

TEST_CASE("pages are large enough for a disk and small beside the sequence", "[runtime]") {
  CHECK(choose_page_tokens(DType::f16, 32, 128, 160, true) == 16);      // 8 KiB a token
  CHECK(choose_page_tokens(DType::f16, 32, 128, 300, true) == 32);
  CHECK(choose_page_tokens(DType::f16, 32, 128, 160, true, true) == 32);
  CHECK(choose_page_tokens(DType::f16, 12, 64, 2048, true) == 192);     // 1.5 KiB a token: 288 KiB
  CHECK(choose_page_tokens(DType::f16, 12, 64, 600, true) == 64);       // an eighth of 600 is 75
  CHECK(choose_page_tokens(DType::f16, 12, 64, 100, true) == 16);
  CHECK(choose_page_tokens(DType::f16, 12, 64, 2048, false) == 16);
  CHECK(choose_page_tokens(DType::f16, 2, 16, 2048, false) == 32);       // 2 KiB: a frame has 4
  for (const int64_t tokens : {1, 64, 500, 2048, 100000}) CHECK(choose_page_tokens(DType::f32, 2, 16, tokens, true, true) % kAttentionBlock == 0);
}
