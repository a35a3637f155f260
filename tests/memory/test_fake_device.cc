// SPDX-License-Identifier: Apache-2.0
// The fake card that other tests stand on: is it as late, as early and as unforgiving as it says?
#include "support/fake_device.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <memory>
#include <set>
#include <thread>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

FakeDeviceOptions options(Lateness lateness, uint64_t seed = 1) {
  FakeDeviceOptions o;
  o.lateness = lateness, o.seed = seed;
  return o;
}

// Host memory that a card can reach
struct Pinned {
  Pinned(Device& d, size_t bytes, std::byte fill) : device(d), memory(bytes, fill) { device.pin(memory); }
  ~Pinned() { device.unpin(memory); }
  std::byte* data() { return memory.data(); }

  Device& device;
  std::vector<std::byte> memory;
};

// Does this process die of it?
template <typename Fn>
bool dies(Fn fn) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(1), ::close(2);
    for (int s : {SIGSEGV, SIGABRT}) ::signal(s, SIG_DFL);
    fn();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

constexpr std::byte kOne{1}, kTwo{2}, kPoison{0xFF};

}  // namespace

TEST_CASE("memory of the fake card is poison, counted, and bounded with the message of a real one", "[memory][fake_device]") {
  FakeDeviceOptions o;
  o.capacity_bytes = 1_MiB;
  o.fail_allocation = 3;
  FakeDevice device(o);
  CHECK(device.info().total_bytes == 1_MiB);
  {
    DeviceMemory a(device, 1000), b(device, 512_KiB);
    CHECK(reinterpret_cast<uintptr_t>(a.data()) % 256 == 0);
    CHECK(device.peek(a.data(), 1000) == std::vector<std::byte>(1000, kPoison));
    CHECK(device.allocations() == 2);
    CHECK(device.free_bytes() == 512_KiB - 1000);
    CHECK(device.holds(b.data() + 1, 512_KiB - 1));
    CHECK_FALSE(device.holds(b.data() + 1, 512_KiB));
    CHECK_FAULT(device.allocate(512_KiB), Fault::space,
                "cuda:0 (Fake card): memory of the card: found 511 KiB free of 1.00 MiB, 512 KiB were asked for");
    CHECK_FAULT(device.allocate(1), Fault::space, "1 B were asked for");  // the third that fits
    DeviceMemory c(device, 1);
    CHECK(device.allocations() == 3);
  }
  CHECK(device.allocations() == 0);
  CHECK(device.used_bytes() == 0);
}

TEST_CASE("late: nothing runs before it is waited for, and then only what that needs", "[memory][fake_device]") {
  std::vector<int> ran;
  FakeDevice device;
  DeviceStream a(device), b(device), c(device);
  DeviceEvent on_a(device), on_b(device);
  device.run(a, [&] { ran.push_back(1); });
  device.record(on_a, a);
  device.run(a, [&] { ran.push_back(2); });
  device.run(b, [&] { ran.push_back(3); });
  device.wait(on_a, b);
  device.run(b, [&] { ran.push_back(4); });
  device.record(on_b, b);
  device.run(c, [&] { ran.push_back(5); });
  CHECK(ran.empty());
  CHECK_FALSE(device.done(on_b));
  CHECK(ran.empty());
  CHECK(device.done(on_b));  // who asks twice means it
  CHECK(ran == std::vector<int>{3, 1, 4});
  CHECK(device.done(on_a));
  device.synchronize_stream(a);
  CHECK(ran == std::vector<int>{3, 1, 4, 2});
  CHECK(device.waiting() == 1);
}

TEST_CASE("a destroyed stream has done its work", "[memory][fake_device]") {
  FakeDevice device;
  int ran = 0;
  {
    DeviceStream stream(device);
    device.run(stream, [&] { ++ran; });
    CHECK(device.streams() == 1);
  }
  CHECK(ran == 1);
  CHECK(device.streams() == 0);
}

TEST_CASE("early: work has run when it was given", "[memory][fake_device]") {
  int ran = 0;
  FakeDevice device(options(Lateness::early));
  DeviceStream a(device), b(device);
  DeviceEvent event(device);
  device.run(a, [&] { ++ran; });
  CHECK(ran == 1);
  device.record(event, a);
  CHECK(device.done(event));
  device.wait(event, b);
  device.run(b, [&] { ++ran; });
  CHECK(ran == 2);
  CHECK(device.waiting() == 0);
}

TEST_CASE("random: streams keep their order, events hold, and all else comes in any order", "[memory][fake_device]") {
  std::set<std::vector<int>> orders;
  std::set<bool> answers;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    FakeDevice device(options(Lateness::random, seed));
    std::vector<int> ran;
    {
      DeviceStream a(device), b(device);
      DeviceEvent event(device);
      for (int i : {0, 1, 2}) device.run(a, [&, i] { ran.push_back(i); });
      device.record(event, a);
      device.run(b, [&] { ran.push_back(10); });
      answers.insert(device.done(event));
      device.wait(event, b);
      device.run(b, [&] { ran.push_back(11); });
      device.synchronize_stream(b);
    }
    REQUIRE(ran.size() == 5);
    CHECK(ran.back() == 11);
    orders.insert(ran);
    ran.erase(std::find(ran.begin(), ran.end(), 10));
    CHECK(ran == std::vector<int>{0, 1, 2, 11});
  }
  CHECK(orders.size() > 2);
  CHECK(answers.size() == 2);
}

TEST_CASE("random: the same seed repeats a run, other seeds give other orders", "[memory][fake_device]") {
  const auto order = [](uint64_t seed) {
    std::vector<int> ran;
    FakeDevice device(options(Lateness::random, seed));
    DeviceStream a(device), b(device), c(device);
    int n = 0;
    for (int i = 0; i < 5; ++i)
      for (const DeviceStream* s : {&a, &b, &c}) device.run(*s, [&ran, n = n++] { ran.push_back(n); });
    for (const DeviceStream* s : {&a, &b, &c}) device.synchronize_stream(*s);
    return ran;
  };
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CHECK(order(seed) == order(seed));
    orders.insert(order(seed));
  }
  CHECK(orders.size() > 10);
}

TEST_CASE("a wait is for the record that was the last when it was given; an event without one has happened", "[memory][fake_device]") {
  std::vector<int> ran;
  FakeDevice device;
  DeviceStream a(device), b(device);
  DeviceEvent event(device);
  CHECK(device.done(event));
  device.synchronize(event);
  device.wait(event, b);
  device.run(b, [&] { ran.push_back(1); });
  device.synchronize_stream(b);
  CHECK(ran == std::vector<int>{1});

  device.run(a, [&] { ran.push_back(2); });
  device.record(event, a);
  device.wait(event, b);
  device.run(a, [&] { ran.push_back(3); });
  device.record(event, a);
  device.synchronize_stream(b);
  CHECK(ran == std::vector<int>{1, 2});
  CHECK_FALSE(device.done(event));
  device.synchronize(event);
  CHECK(ran == std::vector<int>{1, 2, 3});
}

TEST_CASE("a copy reads its source when it runs", "[memory][fake_device]") {
  FakeDevice device;
  Pinned from(device, 512, kOne), to(device, 512, kPoison);
  DeviceMemory memory(device, 512);
  DeviceStream stream(device);
  device.copy(memory.data(), from.data(), 512, stream);
  std::fill(from.memory.begin(), from.memory.end(), kTwo);  // too early
  device.copy(to.data(), memory.data(), 512, stream);
  CHECK(to.memory == std::vector<std::byte>(512, kPoison));
  device.synchronize_stream(stream);
  CHECK(to.memory == std::vector<std::byte>(512, kTwo));
}

TEST_CASE("a copy is between the card's memory and pinned memory, when it is given and when it runs", "[memory][fake_device]") {
  FakeDevice device;
  Pinned host(device, 512, kOne);
  std::vector<std::byte> pageable(512);
  DeviceMemory memory(device, 512);
  {
    DeviceStream stream(device);
    CHECK_FAULT(device.copy(memory.data(), pageable.data(), 512, stream), Fault::gpu, "is neither the card's nor pinned");
    CHECK_FAULT(device.copy(pageable.data(), memory.data(), 512, stream), Fault::gpu, "its target");
    CHECK_FAULT(device.copy(memory.data() + 1, host.data(), 512, stream), Fault::gpu, "its target");
    CHECK_FAULT(device.copy(memory.data(), host.data() + 1, 512, stream), Fault::gpu, "its source");
    CHECK_FAULT(device.copy(host.data(), host.data(), 512, stream), Fault::internal, "from host to host");
    device.synchronize_stream(stream);  // nothing of it was given
  }
  DeviceStream stream(device);
  {
    DeviceMemory soon_gone(device, 512);
    device.copy(host.data(), soon_gone.data(), 512, stream);
  }
  CHECK_FAULT(device.synchronize_stream(stream), Fault::gpu, "its source");
  CHECK_FAULT(device.free_bytes(), Fault::gpu, "memory of the card that was released");  // and so on for ever
}

TEST_CASE("pinned memory that goes before the copy ran is found", "[memory][fake_device]") {
  FakeDevice device;
  DeviceMemory memory(device, 512);
  DeviceStream stream(device);
  {
    Pinned host(device, 512, kOne);
    CHECK_FAULT(device.pin(std::span(host.memory).subspan(10, 20)), Fault::internal, "are pinned already");
    CHECK(device.pinned(host.data(), 512));
    device.copy(memory.data(), host.data(), 512, stream);
  }
  CHECK_FAULT(device.synchronize_stream(stream), Fault::gpu, "is neither the card's nor pinned");
}

TEST_CASE("the host cannot touch the card's memory, nobody what lies behind or was released", "[memory][fake_device]") {
#if FLEXGEN_SANITIZED
  WARN("skipped: a child that dies is the sanitizer's report");
#else
  FakeDevice device;
  DeviceStream stream(device);
  auto memory = std::make_unique<DeviceMemory>(device, 512);
  std::byte* const data = memory->data();
  const auto on_card = [&](auto fn) {
    return dies([&] {
      device.run(stream, fn);
      device.synchronize_stream(stream);
    });
  };
  const auto write = [](std::byte* p) { *static_cast<volatile std::byte*>(p) = kOne; };
  CHECK(dies([&] { write(data); }));
  CHECK_FALSE(on_card([&] { write(data + 511); }));
  CHECK(on_card([&] { write(data + 512); }));
  device.run(stream, [&] { write(data); });
  device.synchronize_stream(stream);
  CHECK(dies([&] { write(data); }));
  memory.reset();
  CHECK(on_card([&] { write(data); }));
#endif
}

TEST_CASE("from the chosen call on the card is broken, for every call", "[memory][fake_device]") {
  FakeDeviceOptions o;
  o.fail_call = 5;
  FakeDevice device(o);
  int ran = 0;
  {
    DeviceMemory memory(device, 256);  // 1
    DeviceStream stream(device);       // 2
    DeviceEvent event(device);         // 3
    device.run(stream, [&] { ++ran; });
    CHECK(device.calls() == 4);
    CHECK_FAULT(device.record(event, stream), Fault::gpu, "cuda:0 (Fake card): call 5 failed on purpose");
    CHECK_FAULT(device.synchronize_stream(stream), Fault::gpu, "call 5 failed");
    CHECK_FAULT(device.done(event), Fault::gpu, "call 5 failed");
    CHECK_FAULT(device.allocate(1), Fault::gpu, "call 5 failed");
    CHECK_FAULT(device.create_stream(), Fault::gpu, "call 5 failed");
  }
  CHECK(ran == 0);
  CHECK(device.allocations() + device.streams() + device.events() == 0);
}

TEST_CASE("a pin can be refused on purpose", "[memory][fake_device]") {
  FakeDeviceOptions o;
  o.fail_pin = 2;
  FakeDevice device(o);
  Pinned first(device, 512, kOne);
  CHECK_FAULT(Pinned(device, 512, kOne), Fault::space, "cuda:0 (Fake card): pinning 512 B failed on purpose");
  CHECK(device.pins() == 1);
}

TEST_CASE("what work throws comes out of the wait that makes it run, with its own type, and then of every call", "[memory][fake_device]") {
  int ran = 0;
  FakeDevice device;
  DeviceStream a(device), b(device);
  DeviceEvent event(device);
  device.run(a, [] { throw std::domain_error("a kernel's"); });
  device.record(event, a);
  device.run(a, [&] { ++ran; });
  device.run(b, [&] { ++ran; });
  CHECK_THROWS_AS(device.synchronize(event), std::domain_error);
  CHECK_THROWS_AS(device.synchronize_stream(b), std::domain_error);
  CHECK(ran == 0);
}

TEST_CASE("handles that were destroyed are nobody's, and memory is released once", "[memory][fake_device]") {
  FakeDevice device;
  DeviceStream stream(device);
  const Device::Event event = device.create_event();
  device.destroy_event(event);
  CHECK_FAULT(device.record(event, stream), Fault::internal, "is no event of this card, or was destroyed");
  CHECK_FAULT(device.synchronize_stream(nullptr), Fault::internal, "is no stream of this card, or was destroyed");
  CHECK_FAULT(device.allocate(0), Fault::internal, "nothing to allocate");
#if !FLEXGEN_SANITIZED
  std::byte* const data = device.allocate(1);
  device.release(data);
  CHECK(dies([&] { device.release(data); }));
#endif
}

TEST_CASE("a card that goes before what it owns, or with an error that nobody got, ends the process", "[memory][fake_device]") {
#if FLEXGEN_SANITIZED
  WARN("skipped: a child that dies is the sanitizer's report");
#else
  CHECK_FALSE(dies([] { FakeDevice(); }));
  CHECK(dies([] { FakeDevice().allocate(1); }));
  CHECK(dies([] { FakeDevice().create_event(); }));
  CHECK(dies([] {
    FakeDevice device;
    DeviceStream stream(device);
    device.run(stream, [] { throw std::domain_error("unseen"); });
  }));
#endif
}

TEST_CASE("events tell the time between them", "[memory][fake_device]") {
  FakeDevice device;
  DeviceStream stream(device);
  DeviceEvent before(device, true), after(device, true), untimed(device);
  device.record(before, stream);
  for (int i = 0; i < 3; ++i) device.run(stream, [] {});
  device.record(after, stream);
  device.record(untimed, stream);
  CHECK_FAULT(device.seconds_between(before, after), Fault::internal, "have not happened");
  device.synchronize_stream(stream);
  CHECK(device.seconds_between(before, after) == Approx(3e-6));
  CHECK_FAULT(device.seconds_between(before, untimed), Fault::internal, "not timed");
}

TEST_CASE("ranges end in their thread", "[memory][fake_device]") {
  FakeDevice device;
  const DeviceRange range(&device, "sweep");
  std::thread([&] { CHECK_FAULT(device.pop_range(), Fault::internal, "no range to end"); }).join();
}

TEST_CASE("several threads give work to their streams and wait for each other's", "[memory][fake_device][threads]") {
  for (const Lateness lateness : {Lateness::late, Lateness::early, Lateness::random}) {
    constexpr size_t kThreads = 3, kRounds = 100;
    FakeDevice device(options(lateness));
    Pinned result(device, kThreads * 256, kPoison);
    std::atomic<size_t> wrong{0};
    const auto work = [&](size_t i) {
      Pinned from(device, 256, kPoison);
      DeviceMemory memory(device, 256);
      DeviceStream in(device), out(device);
      DeviceEvent arrived(device), left(device);
      for (size_t round = 0; round < kRounds; ++round) {
        std::fill(from.memory.begin(), from.memory.end(), static_cast<std::byte>(round));
        device.wait(left, in);
        device.copy(memory.data(), from.data(), 256, in);
        device.record(arrived, in);
        device.wait(arrived, out);
        device.copy(result.data() + i * 256, memory.data(), 256, out);
        device.record(left, out);
        if (round % 2) {
          device.synchronize(left);
        } else {
          while (!device.done(left)) std::this_thread::yield();
        }
        for (size_t k = 0; k < 256; ++k) wrong += result.memory[i * 256 + k] != static_cast<std::byte>(round);
      }
    };
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
  }
}
