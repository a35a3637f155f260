// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/copy_stream.h"

#include <array>
#include <cstring>
#include <future>

#include "support/errors.h"
#include "support/fake_device.h"

using namespace flexgen;
using flexgen::testing::FakeDevice;
using flexgen::testing::Lateness;

namespace {

struct CopyRig {
  explicit CopyRig(const flexgen::testing::FakeDeviceOptions& o) : device(o) { device.pin(host); }
  ~CopyRig() { device.unpin(host); }

  // 100 bytes to the i-th hundred, after all that compute was given
  DeviceCopy& copy(size_t i) {
    DeviceCopy& c = copies.emplace_back();
    c.to = memory.data() + i * 100;
    c.from = host.data() + i * 100;
    c.bytes = 100;
    c.after = moments.record(1);
    return c;
  }

  FakeDevice device;
  std::vector<std::byte> host = std::vector<std::byte>(1000, std::byte{7});
  const DeviceStream compute{device};
  const DeviceMemory memory{device, 1000};
  Moments moments{device, compute};
  std::deque<DeviceCopy> copies;
  DeviceFailure failure;
};

}  // namespace

TEST_CASE("copies end in order, and the stream's time is theirs alone", "[io][device_io]") {
  CopyRig rig({.lateness = Lateness::late});
  std::promise<void> all_given;
  std::vector<const DeviceCopy*> ended;
  {
    const std::shared_future<void> given(all_given.get_future());
    CopyStream stream(rig.device, rig.failure, [&](DeviceCopy& c) {
      if (ended.empty()) given.wait();  // so that the others are there before they are looked at
      ended.push_back(&c);
    });
    for (size_t i = 0; i < 8; ++i) {
      if (i == 2 || i == 5)
        for (int k = 0; k < 10; ++k) rig.device.run(rig.compute, [] {});  // a microsecond each
      stream.give(rig.copy(i));
    }
    all_given.set_value();
    while (stream.statistics().bytes < 800) std::this_thread::yield();
    CHECK(stream.statistics().busy_s == Approx(8e-6));
  }
  REQUIRE(ended.size() == 8);
  for (size_t i = 0; i < 8; ++i) {
    CHECK(ended[i] == &rig.copies[i]);
    CHECK(ended[i]->done);
    CHECK(ended[i]->start_ns <= ended[i]->end_ns);
    if (i > 0) CHECK(ended[i]->start_ns >= ended[i - 1]->end_ns);
  }
  CHECK(rig.device.peek(rig.memory.data(), 800) == std::vector<std::byte>(800, std::byte{7}));
  CHECK_NOTHROW(rig.failure.rethrow());
}

TEST_CASE("a moment's event is used again when nobody needs it, not before", "[io][device_io]") {
  CopyRig rig({.lateness = Lateness::late});
  const size_t before = rig.device.events();
  Moments::Moment* const a = rig.moments.record(2);
  Moments::Moment* const b = rig.moments.record(1);
  CHECK(a != b);
  CHECK(a->number < b->number);
  rig.moments.release(a);
  CHECK(rig.moments.record(1) != a);
  rig.moments.release(a);
  const uint64_t number = b->number;
  CHECK(rig.moments.record(1) == a);
  CHECK(a->number > number);
  CHECK(rig.device.events() == before + 3);
}

TEST_CASE("copies of a device that has failed end as not done, also those that were given", "[io][device_io]") {
  CopyRig rig({.lateness = Lateness::late});
  std::vector<bool> done;
  {
    std::promise<void> failed;
    const std::shared_future<void> until_failed(failed.get_future());
    CopyStream stream(rig.device, rig.failure, [&](DeviceCopy& c) {
      if (done.empty()) until_failed.wait();
      done.push_back(c.done);
    });
    stream.give(rig.copy(0));
    while (rig.device.waiting() > 0) std::this_thread::yield();
    for (size_t i = 1; i < 3; ++i) stream.give(rig.copy(i));
    std::byte elsewhere{};
    DeviceCopy& bad = rig.copy(3);
    bad.from = &elsewhere;
    bad.bytes = 1;
    stream.give(bad);
    stream.give(rig.copy(4));
    failed.set_value();
  }
  CHECK(done == std::vector<bool>{true, true, true, false, false});
  CHECK_FAULT(rig.failure.rethrow(), Fault::gpu, "neither the card's nor pinned");
}

TEST_CASE("the first error of a device is kept", "[io][device_io]") {
  DeviceFailure failure;
  CHECK_FALSE(failure.seen());
  CHECK_NOTHROW(failure.rethrow());
  for (const char* what : {"first", "second"}) try {
      throw std::runtime_error(what);
    } catch (...) {
      failure.keep_caught();
    }
  CHECK(failure.seen());
  for (int i = 0; i < 2; ++i) CHECK_FAULT(failure.rethrow(), Fault::gpu, "first");
}
