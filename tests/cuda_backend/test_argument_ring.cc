// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/argument_ring.h"

#include <vector>

#include "support/errors.h"
#include "support/fake_device.h"

using namespace flexgen;
using namespace flexgen::testing;
using cuda::ArgumentRing;

namespace {

struct RingMemory {
  FakeDevice device;
  DeviceStream stream{device};
  DeviceMemory there;
  std::vector<std::byte> host;

  RingMemory(FakeDeviceOptions o, size_t bytes) : device(std::move(o)), there(device, bytes), host(bytes) { device.pin(host); }
  ~RingMemory() {
    device.synchronize_stream(stream);
    device.unpin(host);
  }
};

FakeDeviceOptions lateness(Lateness l, uint64_t seed) {
  FakeDeviceOptions o;
  o.lateness = l, o.seed = seed;
  return o;
}

}  // namespace

TEST_CASE("every call's kernels see its own arrays, however late they run and however often the ring is gone round", "[cuda]") {
  for (const Lateness l : {Lateness::late, Lateness::random, Lateness::early})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      CAPTURE(static_cast<int>(l), seed);
      Random random(seed);
      std::vector<std::vector<int32_t>> seen, want;
      size_t most_waiting = 0;
      {
        RingMemory m(lateness(l, seed), ArgumentRing::bytes(1000));
        ArgumentRing ring(m.device, m.stream, m.host, m.there.memory());
        seen.resize(200);
        for (size_t call = 0; call < 200; ++call) {
          const auto n = static_cast<size_t>(random.between(0, 120)), also = static_cast<size_t>(random.between(1, 60));
          ArgumentRing::Call c = ring.begin(ArgumentRing::array_bytes<int32_t>(n) + ArgumentRing::array_bytes<int64_t>(also));
          const auto first = c.array<int32_t>(n);
          const auto second = c.array<int64_t>(also);
          CHECK(reinterpret_cast<uintptr_t>(second.there) % ArgumentRing::kAlignment == 0);
          std::vector<int32_t> all;
          for (size_t i = 0; i < n; ++i) all.push_back(first.host[i] = static_cast<int32_t>(random.next()));
          for (size_t i = 0; i < also; ++i) all.push_back(static_cast<int32_t>(second.host[i] = random.below(1 << 30)));
          want.push_back(all);
          ring.send(c);
          m.device.run(m.stream, [=, &seen] {  // the call's kernel
            for (size_t i = 0; i < n; ++i) seen[call].push_back(first.there[i]);
            for (size_t i = 0; i < also; ++i) seen[call].push_back(static_cast<int32_t>(second.there[i]));
          });
          most_waiting = std::max(most_waiting, m.device.waiting());
        }
      }
      CHECK(seen == want);
      if (l == Lateness::late) CHECK(most_waiting > 2 * ArgumentRing::kPieces);  // the host was not held up at each call
    }
}

TEST_CASE("calls that fit the ring wait for nothing", "[cuda]") {
  RingMemory m(lateness(Lateness::late, 1), ArgumentRing::bytes(1024));
  ArgumentRing ring(m.device, m.stream, m.host, m.there.memory());
  for (size_t call = 0; call < ArgumentRing::kPieces; ++call) {
    ArgumentRing::Call c = ring.begin(1024);
    c.array<int32_t>(256).host[0] = 1;
    ring.send(c);
  }
  CHECK(m.device.waiting() >= ArgumentRing::kPieces);
  ArgumentRing::Call c = ring.begin(16);  // the first piece again: its copy had to be done
  CHECK(m.device.waiting() < 2 * ArgumentRing::kPieces);
  c.array<int32_t>(1).host[0] = 2;
  ring.send(c);
}

TEST_CASE("the ring refuses calls that are larger than announced", "[cuda]") {
  RingMemory m(lateness(Lateness::early, 1), ArgumentRing::bytes(1024));
  ArgumentRing ring(m.device, m.stream, m.host, m.there.memory());
  CHECK_FAULT(ring.begin(1025), Fault::internal, "1025 bytes of arguments in a call, 1024 of them are the most");
  ArgumentRing::Call c = ring.begin(16);
  CHECK_FAULT(c.array<int32_t>(5), Fault::internal, "32 bytes of arguments, 16 were announced");
  CHECK_FAULT(ArgumentRing(m.device, m.stream, m.host, m.there.memory().first(16)), Fault::internal, "4096 bytes of the host, 16 of the device");
}
