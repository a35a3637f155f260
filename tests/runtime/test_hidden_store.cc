// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/hidden_store.h"

#include <fcntl.h>

#include "flexgen/io/file.h"
#include "support/errors.h"
#include "support/kv_device.h"
#include "support/streamed_model.h"
#include "support/temp_dir.h"

using namespace flexgen;

namespace {

constexpr int64_t kWidth = 24;

float value(size_t batch, int64_t i, int step) { return static_cast<float>(batch) * 100 + static_cast<float>(i) + static_cast<float>(step) * 0.25f; }

struct Spill {
  testing::TempDir dir;
  std::string path = dir / "spill";
  Fd fd{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
};

}  // namespace

TEST_CASE("hidden states survive the way over the disk, for any share and number of micro-batches", "[runtime]") {
  const auto io = testing::thread_engine();
  Spill spill;
  for (const double share : {1.0, 0.5, 0.3, 0.0})
    for (const bool look_ahead : {true, false}) {
      HiddenStore store({.memory_share = share, .io = io.get(), .fd = spill.fd.get(), .look_ahead = look_ahead});
      CHECK(store.all_in_memory() == (share == 1.0));
      for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{5}, {3, 9}, {64, 1, 7, 64, 2, 300}, {}}) {
        CAPTURE(share, look_ahead, sizes.size());
        store.begin_sweep(sizes, kWidth);
        for (int step = 0; step < 4; ++step)
          for (size_t b = 0; b < sizes.size(); ++b) {
            float* h = store.acquire(b, step == 0);
            for (int64_t i = 0; i < sizes[b] * kWidth; ++i) {
              if (step > 0) REQUIRE(h[i] == value(b, i, step - 1));
              h[i] = value(b, i, step);
            }
            store.release(b, true);
          }
        for (size_t b = 0; b < sizes.size(); b += 2) {  // as the head does
          CHECK(store.acquire(b, false)[0] == value(b, 0, 3));
          store.release(b, false);
        }
      }
      const HiddenStatistics& s = store.statistics();
      CHECK((s.bytes_written == 0) == (share == 1.0));
      CHECK(s.reread == 0);
      store.begin_sweep(std::vector<int64_t>{4, 4, 4, 4}, kWidth);  // broken off with all of it in flight
      for (size_t b = 0; b < 3; ++b) store.acquire(b, true), store.release(b, true);
    }
}

TEST_CASE("shares of micro-batches are met to within one, and more micro-batches never need less room", "[runtime]") {
  for (const auto& [memory, host] : {std::pair{1.0, 0.0}, {0.0, 0.0}, {0.5, 0.1}, {0.0, 1.0}, {0.3, 0.7}, {0.25, 0.5}, {0.9, 0.05}}) {
    std::array<int64_t, kTiers> before{};
    for (int64_t n = 1; n < 100; ++n) {
      CAPTURE(memory, host, n);
      const auto p = HiddenStore::places(memory, host, n);
      CHECK(p[0] + p[1] + p[2] == n);
      CHECK(std::abs(static_cast<double>(p[0]) - memory * static_cast<double>(n)) < 1);
      CHECK(std::abs(static_cast<double>(p[2]) - (1 - memory - host) * static_cast<double>(n)) < 2);
      for (size_t t = 0; t < kTiers; ++t) CHECK(p[t] >= before[t]);
      before = p;
    }
    if (memory + host == 1) CHECK(before[2] == 0);
    if (host == 0) CHECK(before[1] == 0);
  }
}

TEST_CASE("states that come back changed, or not at all, are an error", "[runtime]") {
  const auto io = testing::thread_engine();
  Spill spill;
  HiddenStore store({.memory_share = 0, .io = io.get(), .fd = spill.fd.get(), .path = "the spill file", .look_ahead = false});
  const std::vector<int64_t> sizes(6, 16);
  const auto write_all = [&] {
    store.begin_sweep(sizes, kWidth);
    for (size_t b = 0; b < sizes.size(); ++b) {
      std::fill_n(store.acquire(b, true), 16 * kWidth, 1.5f);
      store.release(b, true);
    }
    io->drain();
    for (size_t b = 3; b < sizes.size(); ++b) store.acquire(b, false);  // every frame, so that the first ones have to be read
    for (size_t b = 3; b < sizes.size(); ++b) store.release(b, false);
  };
  write_all();
  const float other = 2;
  REQUIRE(::pwrite(spill.fd.get(), &other, sizeof(other), 64) == sizeof(other));
  CHECK_FAULT(store.acquire(0, false), Fault::damaged, "the spill file: hidden states damaged: micro-batch 0, bytes 0 to 4095");
  write_all();
  REQUIRE(::ftruncate(spill.fd.get(), 4096) == 0);
  CHECK_FAULT(store.acquire(1, false), Fault::io, "reading hidden states of micro-batch 1, 4096 bytes at offset 4096, failed: the file ends before");
  const Fd read_only(::open(spill.path.c_str(), O_RDONLY | O_CLOEXEC));
  HiddenStore cannot({.memory_share = 0, .io = io.get(), .fd = read_only.get()});
  cannot.begin_sweep(sizes, kWidth);
  cannot.acquire(0, true), cannot.release(0, true);
  CHECK_FAULT(cannot.acquire(0, false), Fault::io, "writing hidden states of micro-batch 0");
  const Fd full(::open("/dev/full", O_RDWR | O_CLOEXEC));
  HiddenStore no_room({.memory_share = 0, .io = io.get(), .fd = full.get()});
  no_room.begin_sweep(sizes, kWidth);
  no_room.acquire(0, true), no_room.release(0, true);
  CHECK_FAULT(no_room.acquire(0, false), Fault::space, "No space left on device. Free space on that disk or give the activations more memory");
  CHECK_FAULT(HiddenStore({.memory_share = 0.5}), Fault::internal, "no spill file");
}

TEST_CASE("hidden states of a card survive the way to the host and to disk", "[runtime]") {
  using testing::Lateness;
  const std::vector<int64_t> sizes{64, 1, 7, 64, 2, 300};
  const size_t unit = HiddenStore::frame_bytes(300, kWidth);
  for (const auto& [memory, host] : {std::pair{1.0, 0.0}, {0.0, 1.0}, {0.0, 0.0}, {0.3, 0.4}, {0.5, 0.0}, {0.0, 0.5}})
    for (const auto& [lateness, seed] : {std::pair{Lateness::late, 1u}, {Lateness::early, 2u}, {Lateness::random, 3u}, {Lateness::random, 4u}}) {
      CAPTURE(memory, host, seed);
      testing::ThreeTiers tiers({.lateness = lateness, .seed = seed, .unit = unit, .device = sizes.size() + HiddenStore::kFrames,
                                 .host = sizes.size(), .disk = sizes.size(), .faults = {.flip = {0}}});
      HiddenStore store({.memory_share = memory,
                         .host_share = host,
                         .memory = tiers.memory.memory().first(sizes.size() * unit),
                         .frames = tiers.memory.memory().last(HiddenStore::kFrames * unit),
                         .io = &tiers.io,
                         .fd = tiers.file.get(),
                         .host_offset = tiers.host_offset,
                         .look_ahead = seed != 2});
      std::atomic<int> wrong{0};
      for (int sweep = 0; sweep < 2; ++sweep) {
        store.begin_sweep(sizes, kWidth);
        for (int step = 0; step < 4; ++step)
          for (size_t b = 0; b < sizes.size(); ++b) {
            float* const h = store.acquire(b, step == 0);
            tiers.card.run(tiers.stream, [&wrong, h, step, b, n = sizes[b] * kWidth] {
              for (int64_t i = 0; i < n; ++i) {
                if (step > 0 && h[i] != value(b, i, step - 1)) ++wrong;
                h[i] = value(b, i, step);
              }
            });
            store.release(b, true);
          }
      }
      tiers.card.synchronize_stream(tiers.stream);
      CHECK(wrong == 0);
      const HiddenStatistics& s = store.statistics();
      CHECK((s.bytes_to_host > 0) == (host > 0));
      CHECK((s.bytes_from_host > 0) == (host > 0));
      CHECK((s.bytes_written > 0) == (memory + host < 1));
      CHECK(s.reread == (s.bytes_read > 0 ? 1 : 0));
    }
}

TEST_CASE("a card that breaks under hidden states says so", "[runtime]") {
  int failures = 0;
  for (int64_t at = 30; at < 130; at += 3) {
    CAPTURE(at);
    try {
      testing::ThreeTiers tiers({.seed = static_cast<uint32_t>(at), .device = 7, .host = 4, .disk = 4, .fail_call = at});
      HiddenStore store({.memory_share = 0, .host_share = 0.5, .memory = tiers.memory.memory().first(4 * 4096),
                         .frames = tiers.memory.memory().last(3 * 4096), .io = &tiers.io, .fd = tiers.file.get(), .host_offset = tiers.host_offset});
      store.begin_sweep(std::vector<int64_t>(4, 8), kWidth);
      for (int step = 0; step < 6; ++step)
        for (size_t b = 0; b < 4; ++b) {
          store.acquire(b, step == 0);
          tiers.card.run(tiers.stream, [] {});
          store.release(b, true);
        }
    } catch (const Error& e) {
      ++failures;
      CHECK(e.fault() == Fault::gpu);
      CHECK_THAT(e.what(), Catch::Contains("failed on purpose"));
    }
  }
  CHECK(failures > 5);
  testing::ThreeTiers tiers({.device = 7, .host = 4});
  HiddenStore nothing({.memory_share = 0.5, .host_share = 0.5, .io = &tiers.io, .fd = 0});
  CHECK_FAULT(nothing.begin_sweep(std::vector<int64_t>(4, 8), kWidth), Fault::internal, "no memory for 1536 bytes");
}
