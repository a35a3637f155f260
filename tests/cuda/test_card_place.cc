// SPDX-License-Identifier: Apache-2.0
// What gpu_check sees of a kernel that does more than it may, on a device whose memory is the host's
#include "bench/gpu/card_place.h"

#include "cuda/emulated_device.h"
#include "support/errors.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

TEST_CASE("a case on a card: operands are copied, outputs come back, each launch is made twice from the same bytes", "[cuda]") {
  EmulatedDevice device;
  const bench::CardPlaces places(device, size_t{1} << 20);
  const std::unique_ptr<Place> place = places.open();
  const std::vector<int> in{1, 2, 3};
  std::vector<int> out{10, 20, 30};
  const int* const from = place->input(in, "in");
  int* const to = place->output(out, "out");
  const int* const* const table = place->keep(std::vector{from + 1}, "table");
  CHECK(from != in.data());
  CHECK(reinterpret_cast<uintptr_t>(from) % 256 == reinterpret_cast<uintptr_t>(in.data()) % 256);
  int launches = 0;
  for (int round = 1; round <= 2; ++round) {
    REQUIRE(place->run([&](void*) {
      ++launches;
      for (int i = 0; i < 3; ++i) to[i] += from[i];
      to[0] += **table;
      return 0;
    }) == 0);
    CHECK(launches == 2 * round);
    CHECK(out == std::vector{10 + 3 * round, 20 + 2 * round, 30 + 3 * round});
  }
  CHECK(place->run([](void*) { return 98; }) == 98);
  CHECK_FALSE(place->statistics());
}

TEST_CASE("a case on a card: what it wrote beside its outputs, into its inputs, or not twice alike is found", "[cuda]") {
  EmulatedDevice device;
  const bench::CardPlaces places(device, size_t{1} << 20);
  const std::unique_ptr<Place> place = places.open();
  const std::vector<unsigned char> in(5, 1);
  std::vector<unsigned char> out(7, 2);
  auto* const from = const_cast<unsigned char*>(place->input(in, "in"));
  unsigned char* const to = place->output(out, "out");
  const auto writes = [&](unsigned char* at) {
    return place->run([&](void*) {
      *at = 77;
      return 0;
    });
  };
  CHECK(writes(to + 6) == 0);
  CHECK_FAULT(writes(to - 3), Fault::internal, "out: byte 3 before its begin was written");
  CHECK_FAULT(writes(to + 7), Fault::internal, "out: byte 0 behind its end was written");
  CHECK_FAULT(writes(from + 4), Fault::internal, "in: byte 4 was written, and kernels only read it");
  unsigned char different = 0;
  CHECK_FAULT(place->run([&](void*) {
    to[2] = ++different;
    return 0;
  }),
              Fault::internal, "out: byte 2 differs between two runs with the same operands");
  std::vector<unsigned char> large(size_t{1} << 20);
  CHECK_FAULT(place->output(large, "large"), Fault::internal, "large: operands of");
}
