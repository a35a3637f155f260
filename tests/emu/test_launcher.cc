// SPDX-License-Identifier: Apache-2.0
// Launches that wait for their turn on the fake card.
#include "kernels/emu/launcher.h"

#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/core/launch.h"
#include "support/catch.h"
#include "support/emulated_launches.h"
#include "support/errors.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

struct Scale {
  float factor;
  int offset;
};

// y[i] = x[i + offset] * factor; the block's last threads have nothing to do
FG_KERNEL(64) scale(const float* x, float* y, Scale s, int n) {
  const int i = static_cast<int>(blockIdx.x * 64 + threadIdx.x);
  if (i < n) y[i] = x[i + s.offset] * s.factor;
}

struct Card {
  FakeDevice device;
  EmulatedLaunches launches{device};
  Arena arena{2_MiB, &device};
  DeviceStream in{device}, work{device}, out{device};
  DeviceEvent arrived{device}, computed{device}, left{device};
  DeviceMemory x{device, 100 * sizeof(float)}, y{device, 100 * sizeof(float)};
  std::span<std::byte> from = arena.take(400), to = arena.take(400);

  explicit Card(Lateness lateness = Lateness::late, uint64_t seed = 1) : device(options(lateness, seed)) {
    for (int i = 0; i < 100; ++i) reinterpret_cast<float*>(from.data())[i] = static_cast<float>(i);
  }
  static FakeDeviceOptions options(Lateness lateness, uint64_t seed) {
    FakeDeviceOptions o;
    o.lateness = lateness, o.seed = seed;
    return o;
  }
  // what launches take is gone when it returns
  void launch_scale(float factor, int offset, int n) {
    Scale s{factor, offset};
    const int error =
        cuda::launch(scale, dim3(2), dim3(64), 0, work, reinterpret_cast<const float*>(x.data()), reinterpret_cast<float*>(y.data()), s, n);
    CHECK(error == 0);
    s = {0, 1000};
    n = 0;
  }
  // x up, y = 3 x, y down, on three streams
  void pass() {
    device.copy(x.data(), from.data(), 400, in);
    device.record(arrived, in);
    device.wait(arrived, work);
    launch_scale(3, 0, 100);
    device.record(computed, work);
    device.wait(computed, out);
    device.copy(to.data(), y.data(), 400, out);
    device.record(left, out);
  }
};

}  // namespace

TEST_CASE("a launch runs when its turn on the stream comes, with the arguments that it was given", "[emu]") {
  emu::Session session({.race = true});
  for (const Lateness lateness : {Lateness::late, Lateness::early, Lateness::random}) {
    Card card(lateness, 5);
    card.pass();
    if (lateness == Lateness::late) CHECK(session.statistics().blocks == 0);
    card.device.synchronize(card.left);
    for (int i = 0; i < 100; ++i) CHECK(reinterpret_cast<float*>(card.to.data())[i] == static_cast<float>(3 * i));
    if (lateness == Lateness::late) CHECK(session.statistics().blocks == 2);
  }
  CHECK(session.statistics().blocks == 6);
}

TEST_CASE("without the wait for what it reads, a launch computes with poison", "[emu]") {
  Card card;
  card.device.copy(card.x.data(), card.from.data(), 400, card.in);
  card.launch_scale(1, 0, 100);
  card.device.copy(card.to.data(), card.y.data(), 400, card.work);
  card.device.synchronize_stream(card.work);
  const float first = *reinterpret_cast<float*>(card.to.data());
  CHECK(first != first);
  card.device.synchronize_stream(card.in);  // before its target goes
}

TEST_CASE("an error of a kernel comes out of the wait that makes it run, and then of every call", "[emu]") {
  emu::Session session({.race = true});
  Card card;
  card.pass();
  card.launch_scale(1, 1, 100);  // reads one element too many
  card.device.record(card.computed, card.work);
  card.device.synchronize(card.left);  // in front of it
  for (int i = 0; i < 2; ++i) {
    std::optional<emu::Error> error;
    try {
      i == 0 ? card.device.synchronize(card.computed) : card.device.synchronize(card.left);
    } catch (const emu::Error& e) {
      error = e;
    }
    REQUIRE(error);
    CHECK(error->problem == emu::Problem::out_of_bounds);
    CHECK_THAT(error->what(), Catch::Contains("allocation 1"));
  }
  CHECK_THROWS_AS(card.launch_scale(1, 0, 100), emu::Error);
}

TEST_CASE("what was released is nobody's: a launch that still uses it is found", "[emu]") {
  emu::Session session({.race = true});
  Card card;
  card.launch_scale(1, 0, 100);
  card.y = DeviceMemory();
  CHECK_THROWS_AS(card.device.synchronize_stream(card.work), emu::Error);
}

TEST_CASE("launches have one launcher, and run at once when it has gone", "[emu]") {
  std::vector<float> x(64, 2.0f), y(64, 0.0f);
  const auto run = [&] { return cuda::launch(scale, dim3(1), dim3(64), 0, nullptr, x.data(), y.data(), Scale{2, 0}, 64); };
  std::vector<std::function<void()>> given;
  {
    const emu::Launcher launcher([&](void*, std::function<void()> kernel) { given.push_back(std::move(kernel)); });
    CHECK_THROWS_WITH(emu::Launcher([](void*, std::function<void()>) {}), "emu::Launcher: another one gets the launches. End it first");
    CHECK(run() == 0);
    CHECK(y[0] == 0);
  }
  REQUIRE(given.size() == 1);
  given[0]();
  CHECK(y[63] == 4);
  x[0] = 5;
  CHECK(run() == 0);
  CHECK(y[0] == 10);
}
