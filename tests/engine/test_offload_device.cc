// SPDX-License-Identifier: Apache-2.0
// The whole engine on a card that is late and out of order: the same tokens as without one, wherever weights, cache and activations lie;
// a card that breaks, or has too little memory, ends the run with its message.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/engine/offload.h"
#include "support/deferred_backend.h"
#include "support/errors.h"
#include "support/offload_run.h"
#include "support/streamed_model.h"

namespace on_device {

using namespace flexgen;
using testing::DeferredBackend;
using testing::FakeDevice;
using testing::FakeDeviceOptions;
using testing::Lateness;
using testing::OffloadRun;
using testing::small_shape;
using testing::StreamedModel;

namespace {

using Tokens = std::vector<std::vector<int32_t>>;

constexpr int64_t kNewTokens = 4, kLongest = 75;  // positions of a sequence: two full pages of the cache and a bit

Tokens prompts() {
  Tokens all{{}, {}, {2, 5, 6}, {9}, {}};
  for (int32_t i = 0; i < kLongest - kNewTokens + 1; ++i) all[0].push_back(4 + i * 7 % 90);
  for (int32_t i = 0; i < 33; ++i) all[1].push_back(4 + i * 11 % 90);
  for (int32_t i = 0; i < 64; ++i) all[4].push_back(4 + i * 13 % 90);
  return all;
}

std::vector<Request> requests() {
  std::vector<Request> all;
  for (std::vector<int32_t>& prompt : prompts()) {
    Request& r = all.emplace_back();
    r.prompt = std::move(prompt);
    r.settings.max_new_tokens = kNewTokens;
    r.settings.ignore_eos = true;
  }
  return all;
}

struct Outcome {
  Tokens tokens;
  std::optional<Fault> fault;
  std::string message;
  MemoryPlan::OnDevice on_device;
  uint64_t host_weights = 0, pageable = 0;  // bytes
  uint64_t to_device_bytes = 0, from_device_bytes = 0;
};

struct DeviceRun {
  DeviceRun() {
    policy.gpu_batch_size = 2;
    policy.look_ahead_bytes = 1;  // the smallest ring
    policy.micro_batch_tokens = 40;
    policy.verify = Verify::always;
    run.requests = requests();
  }

  // without a card
  Tokens want() {
    run.started = nullptr;
    return run.on_host().tokens();
  }

  Outcome operator()(FakeDeviceOptions device = {}, const std::string& faults = "") {
    Outcome o;
    try {
      FakeDevice card(device);
      try {
        DeferredBackend backend(card, *backends().front());
        run.started = [&](const Offload& offload) {
          const auto pinned = [&](const Arena& a) { return a.size() > 0 && card.pinned(a.memory().data(), a.size()); };
          CHECK(pinned(offload.arena()));
          CHECK_FALSE(pinned(offload.pageable()));
          CHECK(card.pins() == 1);
          o.host_weights = offload.plan().weights.host_bytes();
          o.pageable = offload.pageable().size();
        };
        const OffloadRun::Result r = run.on(backend, faults);
        o.tokens = r.tokens();
        o.on_device = *r.on_device;
        o.to_device_bytes = r.to_device_bytes, o.from_device_bytes = r.from_device_bytes;
      } catch (const Error& e) {
        o.fault = e.fault();
        o.message = e.what();
      }
    } catch (const Error& e) {  // the card itself could not be had
      o.fault = e.fault();
      o.message = e.what();
    }
    CHECK(std::filesystem::is_empty(run.spill_folder()));
    return o;
  }

  StreamedModel file{small_shape()};
  OffloadRun run{file.path()};
  Policy& policy = run.policy;
};

}  // namespace

TEST_CASE("on a card: the same tokens wherever weights, cache and activations lie, however late it is", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  const std::vector<TierShare> shares{{1, 0}, {0, 1}, {0, 0}, {0.4, 0.3}, {0, 0.5}};
  uint64_t seed = 0;
  for (const TierShare& weights : shares)
    for (const TierShare& cache : shares)
      for (const TierShare& activations : {TierShare{1, 0}, TierShare{0, 1}, TierShare{0.3, 0.4}, TierShare{0, 0}}) {
        ++seed;
        if (FLEXGEN_SANITIZED && seed % 11 != 0) continue;
        run.policy.shares = Policy::Shares{weights, cache, activations};
        run.policy.overlap = seed % 3 != 0;
        run.policy.sep_layer = seed % 4 != 0;
        const auto lateness = std::vector{Lateness::late, Lateness::early, Lateness::random}[seed % 3];
        CAPTURE(seed, weights.device, weights.host, cache.device, cache.host, activations.device, activations.host);
        const Outcome o = run({.lateness = lateness, .seed = seed});
        INFO(o.message);
        CHECK(o.message == "");
        CHECK(o.tokens == want);
        if (weights.device < 1) CHECK(o.to_device_bytes > 0);
        if (cache.device < 1) CHECK(o.from_device_bytes > 0);
      }
}

TEST_CASE("cache pages in host memory are attended there: the same tokens", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  run.policy.cpu_cache_compute = true;
  uint64_t seed = 0;
  for (const TierShare& cache : {TierShare{1, 0}, TierShare{0, 1}, TierShare{0.5, 0.5}, TierShare{0.3, 0.3}})
    for (const auto lateness : {Lateness::late, Lateness::random})
      for (const bool deterministic : {false, true}) {
        CAPTURE(cache.device, cache.host, ++seed);
        if (FLEXGEN_SANITIZED && seed % 5 != 0) continue;
        run.policy.shares = Policy::Shares{{1, 0}, cache, {1, 0}};
        run.policy.deterministic = deterministic;
        const Outcome o = run({.lateness = lateness, .seed = seed});
        INFO(o.message);
        CHECK(o.message == "");
        CHECK(o.tokens == want);
        CHECK((o.on_device.attended_bytes > 0) == (cache.host > 0));
      }
}

TEST_CASE("host weights in pageable memory: the same tokens, and the card copies from pinned memory alone", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  uint64_t seed = 0;
  for (const bool pin : {false, true})
    for (const TierShare& weights : {TierShare{1, 0}, TierShare{0, 1}, TierShare{0.3, 0.3}})
      for (const auto lateness : {Lateness::late, Lateness::early, Lateness::random})
        for (const bool overlap : {false, true}) {
          CAPTURE(pin, weights.device, weights.host, ++seed);
          if (FLEXGEN_SANITIZED && seed % 5 != 0) continue;
          run.policy.pin_weight = pin;
          run.policy.overlap = overlap;
          run.policy.shares = Policy::Shares{weights, {0.5, 0.3}, {1, 0}};
          const Outcome o = run({.lateness = lateness, .seed = seed});
          INFO(o.message);
          CHECK(o.message == "");
          CHECK(o.tokens == want);
          CHECK((o.host_weights > 0) == (weights.host > 0));
          CHECK(o.pageable == (pin ? 0 : round_up<uint64_t>(o.host_weights, Arena::kHugePage)));
        }
}

TEST_CASE("without shares the card's memory is filled first, then the host's", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  uint64_t last = UINT64_MAX;
  bool refused = false, streamed = false;
  for (const uint64_t bytes : {64_MiB, 1_MiB, 700_KiB, 600_KiB, 500_KiB, 400_KiB, 100_KiB}) {
    run.policy.device_bytes = bytes;
    const Outcome o = run();
    CAPTURE(bytes, o.message);
    if (o.fault) {
      refused = true;
      CHECK(o.fault == Fault::space);
      CHECK_THAT(o.message, Catch::Contains("of GPU memory, allowed ") && Catch::Contains(" are missing. Give more --gpu-memory"));
      continue;
    }
    CHECK_FALSE(refused);  // less does not fit where more did not
    CHECK(o.tokens == want);
    streamed |= o.to_device_bytes > 0;
    last = std::min(last, bytes);
  }
  CHECK(refused);
  CHECK(last < 64_MiB);
  // more than is free changes nothing, and what does not fit into that is told as it is
  run.policy.device_bytes = 1_GiB * 1024;
  CHECK(run().tokens == want);
  const Outcome o = run({.capacity_bytes = 100_KiB});
  CHECK(o.fault == Fault::space);
  CHECK_THAT(o.message, Catch::Contains("(no more of the 1.00 TiB asked for is free): ") &&
                            Catch::Contains(" are missing. End other programs on that card"));
}

TEST_CASE("a card that breaks or runs out of memory at any call: its message, and nothing hangs", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  run.policy.shares = Policy::Shares{{0.3, 0.3}, {0.3, 0.3}, {0.3, 0.3}};
  run.policy.pin_weight = GENERATE(true, false);
  int broken = 0;
  for (int64_t n = 1;; n = n < 100 ? n + (FLEXGEN_SANITIZED ? 13 : 3) : n + n / (FLEXGEN_SANITIZED ? 2 : 8)) {
    CAPTURE(n);
    const Outcome o = run({.lateness = Lateness::random, .seed = static_cast<uint64_t>(n), .fail_call = n});
    INFO(o.message);
    if (!o.fault) {
      CHECK(o.tokens == want);
      break;
    }
    ++broken;
    CHECK(o.fault == Fault::gpu);
  }
  CHECK(broken > 10);
  const Outcome o = run({.fail_allocation = 1});
  CHECK(o.fault == Fault::space);
  CHECK_THAT(o.message, Catch::Contains("memory of the card"));
  const Outcome refused = run({.fail_pin = 1});
  CHECK(refused.fault == Fault::space);
  CHECK_THAT(refused.message, Catch::Contains("pinning") && Catch::Contains("failed on purpose"));
}

TEST_CASE("a disk that fails below a card is blamed", "[engine][device]") {
  DeviceRun run;
  const Tokens want = run.want();
  run.policy.shares = Policy::Shares{{0.3, 0.3}, {0.3, 0}, {0.3, 0}};
  CHECK(run({}, "short=0.2,eagain=0.1").tokens == want);
  for (const int n : {1, 40, 90}) {
    const Outcome o = run({}, fmt::format("eio@{}+", n));
    CAPTURE(n, o.message);
    CHECK(o.fault == Fault::io);
  }
  const Outcome flipped = run({}, "read:flip@30");
  CHECK(flipped.tokens == want);  // it was read again
}

}  // namespace on_device
