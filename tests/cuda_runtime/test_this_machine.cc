// SPDX-License-Identifier: Apache-2.0
// What the real CUDA runtime finds here: cards that answer, or the reason why there is none.
#include "kernels/registry.h"

#include <filesystem>

#include "flexgen/memory/device_text.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("this machine's cards, or why it has none", "[cuda_runtime]") {
  std::string why;
  const std::vector<DeviceInfo> cards = devices(&why);
  if (cards.empty()) {
    WARN("no card: " << why);
    CHECK_FALSE(why.empty());
    if (!std::filesystem::exists("/proc/driver/nvidia") && !std::filesystem::exists("/dev/dxg")) CHECK(why == "no NVIDIA driver");
    CHECK_FAULT(open_device(0), Fault::usage, "--device cuda:0: found no card (" + why + "). Use --device cpu");
    return;
  }
  for (const DeviceInfo& i : cards) WARN(to_string(i));
  CHECK(why.empty());
  const std::unique_ptr<Device> device = open_device(0);
  std::vector<std::byte> from(4096, std::byte{7}), to(4096);
  device->pin(from), device->pin(to);
  {
    const uint64_t free = device->free_bytes();
    CHECK((free > 0 && free <= device->info().total_bytes));
    DeviceMemory memory(*device, 4096);
    CHECK(reinterpret_cast<uintptr_t>(memory.data()) % 256 == 0);
    DeviceStream up(*device), down(*device);
    DeviceEvent arrived(*device, true), left(*device, true);
    device->copy(memory.data(), from.data(), 4096, up);
    device->record(arrived, up);
    device->wait(arrived, down);
    device->copy(to.data(), memory.data(), 4096, down);
    device->record(left, down);
    device->synchronize(left);
    CHECK(device->done(left));
    CHECK(device->seconds_between(arrived, left) >= 0);
    CHECK(to == from);
    CHECK_FAULT(device->allocate(device->info().total_bytes * 2), Fault::space, "were asked for");
    CHECK_FAULT(device->pin(to), Fault::internal, "are pinned already");
  }
  device->unpin(from), device->unpin(to);
}
