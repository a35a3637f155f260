// SPDX-License-Identifier: Apache-2.0
// What disks do on their bad days, seen through the store: damaged, failed and refused transfers.
#include "flexgen/runtime/kv_pager.h"

#include "support/errors.h"
#include "support/kv_device.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// life() in little
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

TEST_CASE("a page damaged on its way is read again; one damaged on disk is named", "[runtime]") {
  int64_t reread = 0;
  for (const int64_t at : {0, 7, 20, 33, 46, 59}) {
    Disk disk(400, 3, {.flip = {at}});
    Cache c(disk.options(400, 60, 0));
    life(c);
    reread += static_cast<int64_t>(c.store.statistics().reread_pages);
  }
  CHECK(reread >= 3);  // what is read for a next sweep that goes otherwise is never looked at

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
      CHECK_FAULT(c.fork(a), Fault::damaged, "of positions 64 to 95 of sequence 1 in layer");
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
          CHECK_THAT(e.what(),
                     Catch::Contains("/spill/file: ") && Catch::Contains(" at offset ") && Catch::Contains(": Input/output error. Check the disk"));
        }
        failures += failed;  // not each: a page that was not written stays in memory, and may never be read again
        // pages that could not be written are still in memory: what is committed is whole
        c.store.settle();  // a slow engine may not have told of them all
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
  CHECK_FAULT(c.sweep({{a, 1}}), Fault::io,
              "/spill/file: reading K of positions 0 to 31 of sequence 1 in layer 0 at offset 0: No space left on device");
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

namespace {

// A card, some of whose pages are on the host and some on disk
KvTiers three_tiers(uint32_t seed, FakeFaults faults = {}, int64_t fail_call = 0) {
  const auto lateness = std::array{Lateness::late, Lateness::early, Lateness::random}[seed % 3];
  return KvTiers({.lateness = lateness, .seed = seed, .device = 44, .host = 100, .disk = 300, .faults = std::move(faults), .fail_call = fail_call});
}
const TierShare kThirds{0.3, 0.3};

}  // namespace

TEST_CASE("behind a card: a damaged page is read again, and whichever request of the disk fails, what is committed is whole", "[runtime]") {
  int64_t n = 0, reread = 0;
  for (int64_t at = 0; at < 15; ++at) {
    KvTiers tiers = three_tiers(3, {.flip = {at}});
    CardCache c(tiers, tiers.options(12, kThirds));
    short_life(c);
    reread += static_cast<int64_t>(c.store.statistics().reread_pages);
    n = tiers.disk.submitted();
  }
  CHECK(reread >= 5);  // what is written, or read for a next sweep that goes otherwise, is never looked at
  REQUIRE(n > 15);
  size_t failures = 0;
  for (const bool lasting : {false, true})
    for (int64_t at = 0; at < n; at += FLEXGEN_SANITIZED ? 5 : 1) {
      CAPTURE(lasting, at);
      KvTiers tiers = three_tiers(static_cast<uint32_t>(at + 1), {.fail_from = at, .fail_until = lasting ? INT64_MAX : at + 1});
      CardCache c(tiers, tiers.options(12, kThirds, at % 2 == 0, at % 4 < 2));
      try {
        short_life(c);
      } catch (const Error& e) {
        ++failures;
        CHECK(e.fault() == Fault::io);
        CHECK_THAT(e.what(), Catch::Contains("/spill/file: ") && Catch::Contains(": Input/output error. Check the disk"));
      }
      c.store.settle();
      tiers.disk.set_faults({});
      std::vector<std::pair<SequenceId, int64_t>> all;
      for (const auto& [id, tokens] : c.tokens) all.emplace_back(id, 1);
      if (!all.empty()) c.sweep(all);
      while (!c.tokens.empty()) c.drop(c.tokens.begin()->first);
      check_empty(c.store);
    }
  CHECK(failures > 3);
}

TEST_CASE("a card that breaks, at whichever call, ends the sweep with what it said", "[runtime]") {
  int64_t n = 0;
  {
    KvTiers tiers = three_tiers(1);
    CardCache c(tiers, tiers.options(12, kThirds));
    short_life(c);
    n = tiers.card.calls();
  }
  int64_t failures = 0;
  for (int64_t at = 1, seed = 1; at < n; at += n / (FLEXGEN_SANITIZED ? 20 : 60), ++seed) {
    CAPTURE(at);
    try {
      KvTiers tiers = three_tiers(static_cast<uint32_t>(seed), {}, at);
      CardCache c(tiers, tiers.options(12, kThirds, seed % 2 == 0, seed % 4 < 2));
      short_life(c);
    } catch (const Error& e) {
      ++failures;
      CHECK(e.fault() == Fault::gpu);
      CHECK_THAT(e.what(), Catch::Contains(fmt::format("(Fake card): call {} failed on purpose", at)));
    }
  }
  CHECK(failures > 10);
}
