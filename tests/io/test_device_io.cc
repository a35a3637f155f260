// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/device_io.h"

#include <cstring>
#include <thread>

#include "flexgen/io/queued_engine.h"
#include "flexgen/io/thread_backend.h"
#include "flexgen/memory/buffer.h"
#include "support/errors.h"
#include "support/fake_device.h"
#include "support/fake_io_engine.h"

using namespace flexgen;
using flexgen::testing::FakeDevice;
using flexgen::testing::FakeDeviceOptions;
using flexgen::testing::FakeFaults;
using flexgen::testing::FakeIoEngine;
using flexgen::testing::Lateness;
using flexgen::testing::Random;
using Op = IoRequest::Op;
using Bytes = std::vector<std::byte>;

namespace {

constexpr size_t kSlot = 16_KiB;       // also of a place in the file, and of a page of the device
constexpr size_t kPlaces = 24;
constexpr std::array<size_t, 2> kExtents{4, 16};  // where they begin, in places; the first one is pinned
constexpr size_t kExtentPlaces = 4;
constexpr std::byte kPoison{0xEE};

bool in_extent(size_t place, size_t e) { return place >= kExtents[e] && place < kExtents[e] + kExtentPlaces; }
bool in_extent(size_t place) { return in_extent(place, 0) || in_extent(place, 1); }

Bytes content(size_t bytes, uint64_t seed) {
  Bytes out(bytes);
  Random random(seed);
  for (std::byte& b : out) b = static_cast<std::byte>(random.next());
  return out;
}

struct Pinned {
  Pinned(Device& d, size_t bytes) : device(d), buffer(bytes) { device.pin(buffer.bytes()); }
  ~Pinned() { device.unpin(buffer.bytes()); }

  Device& device;
  Buffer buffer;
};

struct DeviceRigOptions {
  Lateness lateness = Lateness::late;
  uint64_t seed = 1;
  size_t slots = 12;  // 4 of them for writes
  int64_t fail_call = 0;
  FakeFaults faults = {};
  IoEngine* disk = nullptr;  // another one than the fake
};

// A device of kPlaces pages, a file of as many places, and an engine between them
struct DeviceRig {
  explicit DeviceRig(const DeviceRigOptions& o = {})
      : device({.lateness = o.lateness, .seed = o.seed, .fail_call = o.fail_call}),
        compute(device),
        memory(device, kPlaces * kSlot),
        bounce(device, o.slots * kSlot),
        pinned(device, kExtentPlaces * kSlot),
        pageable(kExtentPlaces * kSlot),
        disk(static_cast<uint32_t>(o.seed), o.faults),
        io({.device = device,
            .compute = compute,
            .device_memory = {memory.memory().first(kSlot), memory.memory().subspan(kSlot)},
            .disk = o.disk ? o.disk : &disk,
            .bounce = bounce.buffer.bytes(),
            .slot_bytes = kSlot,
            .resident = {{file.get(), kExtents[0] * kSlot, pinned.buffer.bytes()}, {file.get(), kExtents[1] * kSlot, pageable.bytes(), false}},
            .trace = &trace}) {}

  std::byte* page(size_t i) const { return memory.data() + i * kSlot; }
  const std::byte* extent(size_t place) const {
    return in_extent(place, 0) ? pinned.buffer.data() + (place - kExtents[0]) * kSlot : pageable.data() + (place - kExtents[1]) * kSlot;
  }
  Bytes on_disk(size_t place, size_t bytes) const {
    Bytes out(bytes);
    REQUIRE(::pread(file.get(), out.data(), bytes, static_cast<off_t>(place * kSlot)) == static_cast<ssize_t>(bytes));
    return out;
  }

  IoRequest request(Op op, size_t page_number, size_t place, size_t bytes = kSlot) {
    return {.op = op, .fd = file.get(), .offset = place * kSlot, .data = page(page_number), .bytes = bytes, .ticket = &tickets.emplace_back()};
  }
  // kernels
  void fill(size_t page_number, Bytes bytes) {
    device.run(compute, [to = page(page_number), bytes = std::move(bytes)] { std::memcpy(to, bytes.data(), bytes.size()); });
  }
  void poison(size_t page_number) { fill(page_number, Bytes(kSlot, kPoison)); }
  void read(size_t page_number, Bytes& into) {
    device.run(compute, [from = page(page_number), &into] { into.assign(from, from + kSlot); });
  }
  // of each ticket so far
  std::vector<int> errors() const {
    std::vector<int> out;
    for (const IoTicket& t : tickets) out.push_back(t.wait());
    return out;
  }

  FakeDevice device;
  const Fd file = testing::spill_file(kPlaces * kSlot);
  const DeviceStream compute;
  const DeviceMemory memory;
  const Pinned bounce;
  Pinned pinned;
  Buffer pageable;
  Trace trace{100'000};
  std::deque<IoTicket> tickets;
  FakeIoEngine disk;
  DeviceIoEngine io;
};

void submit(IoEngine& io, const IoRequest& r) { io.submit({&r, 1}); }

// An engine whose requests of one kind come to no end until they are let go
class HoldingEngine final : public IoEngine {
 public:
  explicit HoldingEngine(Op op) : op_(op) {}

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& r : requests) {
      if (r.op != op_) {
        inner_.submit({&r, 1});
        continue;
      }
      std::lock_guard lock(mutex_);
      r.ticket->start();
      held_.push_back(r);
    }
  }
  void let_go() {
    std::lock_guard lock(mutex_);
    inner_.submit(held_);
    held_.clear();
  }
  size_t held() const {
    std::lock_guard lock(mutex_);
    return held_.size();
  }
  void drain() override { inner_.drain(); }
  IoStatistics statistics() const override { return inner_.statistics(); }
  std::string_view name() const override { return "holding"; }

 private:
  const Op op_;
  FakeIoEngine inner_;
  mutable std::mutex mutex_;
  std::vector<IoRequest> held_;
};

template <typename Fn>
void for_all_schedules(uint64_t seeds, Fn fn) {
  for (const Lateness lateness : {Lateness::late, Lateness::early, Lateness::random})
    for (uint64_t seed = 1; seed <= (lateness == Lateness::early ? 1 : seeds); ++seed) {
      CAPTURE(static_cast<int>(lateness), seed);
      fn(lateness, seed);
    }
}

}  // namespace

TEST_CASE("bytes go where they belong and hashes are theirs, whatever runs when", "[io][device_io]") {
  for_all_schedules(6, [](Lateness lateness, uint64_t seed) {
    QueuedEngine threads(std::make_unique<ThreadBackend>());
    DeviceRig rig({.lateness = lateness, .seed = seed, .disk = seed % 3 == 0 ? &threads : nullptr});
    Random random(seed);
    std::vector<size_t> order(kPlaces);
    for (size_t i = 0; i < kPlaces; ++i) order[i] = i;
    const auto shuffle = [&] {
      for (size_t i = kPlaces; i-- > 1;) std::swap(order[i], order[static_cast<size_t>(random.below(static_cast<int64_t>(i) + 1))]);
    };
    constexpr uint64_t kUntouched = 77;
    std::vector<uint64_t> hashes(kPlaces, kUntouched);
    std::vector<IoRequest> batch;
    const auto add = [&](IoRequest r, size_t place) {
      r.hash = &hashes[place];
      r.seed = place;
      batch.push_back(r);
      if (random.below(3) == 0) rig.io.submit(batch), batch.clear();
    };
    const auto end = [&] {
      rig.io.submit(batch);
      batch.clear();
      CHECK(rig.errors() == std::vector<int>(rig.tickets.size()));
      rig.tickets.clear();
    };
    const auto hash = [&](size_t place, const Bytes& b) {
      return in_extent(place, 0) ? kUntouched : XXH3_64bits_withSeed(b.data(), b.size(), place);
    };

    // page i to place order[i], of odd sizes
    std::vector<Bytes> want(kPlaces);
    shuffle();
    for (size_t i = 0; i < kPlaces; ++i) {
      want[order[i]] = content(static_cast<size_t>(random.between(1, kSlot)), seed * 100 + i);
      rig.fill(i, want[order[i]]);
      add(rig.request(Op::write, i, order[i], want[order[i]].size()), order[i]);
    }
    end();
    uint64_t bytes = 0;
    for (size_t p = 0; p < kPlaces; ++p) {
      bytes += want[p].size();
      CHECK(hashes[p] == hash(p, want[p]));
      CHECK(rig.on_disk(p, want[p].size()) == (in_extent(p) ? Bytes(want[p].size()) : want[p]));
      if (in_extent(p)) CHECK(std::memcmp(rig.extent(p), want[p].data(), want[p].size()) == 0);
    }
    // and back to other pages
    shuffle();
    std::fill(hashes.begin(), hashes.end(), kUntouched);
    for (size_t i = 0; i < kPlaces; ++i) {
      rig.poison(i);
      add(rig.request(Op::read, i, order[i], want[order[i]].size()), order[i]);
    }
    end();
    for (size_t i = 0; i < kPlaces; ++i) {
      const Bytes& w = want[order[i]];
      CHECK(hashes[order[i]] == hash(order[i], w));
      Bytes all = w;
      all.resize(kSlot, kPoison);
      CHECK(rig.device.peek(rig.page(i), kSlot) == all);
    }

    rig.io.drain();
    const IoStatistics s = rig.io.statistics();
    CHECK(s.reads == kPlaces);
    CHECK(s.writes == kPlaces);
    CHECK(s.bytes_read == bytes);
    CHECK(s.bytes_written == bytes);
    CHECK(s.errors == 0);
    CHECK(s.busy_s > 0);
    const DeviceIoStatistics d = rig.io.device_statistics();
    CHECK(d.to_device.bytes == bytes);
    CHECK(d.from_device.bytes == bytes);
    CHECK_NOTHROW(rig.io.rethrow());
  });
}

TEST_CASE("copies come after the kernels that were given before, and kernels that follow a ticket see the bytes", "[io][device_io]") {
  constexpr std::array<size_t, 4> kUsed{0, 5, 9, 17};  // two places on disk, one in each extent
  constexpr size_t kRounds = 6;
  for_all_schedules(6, [&](Lateness lateness, uint64_t seed) {
    DeviceRig rig({.lateness = lateness, .seed = seed});
    std::deque<Bytes> before, after;
    for (size_t round = 0; round < kRounds; ++round) {
      std::vector<IoRequest> batch;
      for (const size_t p : kUsed) {
        rig.fill(p, content(kSlot, seed * 1000 + round * 100 + p));
        batch.push_back(rig.request(Op::write, p, p));
      }
      rig.io.submit(batch);
      rig.errors();
      batch.clear();
      for (const size_t p : kUsed) {
        rig.poison(p);
        rig.read(p, before.emplace_back());
        batch.push_back(rig.request(Op::read, p, p));
      }
      rig.io.submit(batch);
      rig.errors();
      for (const size_t p : kUsed) rig.read(p, after.emplace_back());
    }
    rig.device.synchronize_stream(rig.compute);
    for (size_t i = 0; i < after.size(); ++i) {
      CHECK(before[i] == Bytes(kSlot, kPoison));
      CHECK(after[i] == content(kSlot, seed * 1000 + i / kUsed.size() * 100 + kUsed[i % kUsed.size()]));
    }
  });
}

TEST_CASE("requests of host memory go to the disk's engine, in one batch with the device's", "[io][device_io]") {
  DeviceRig rig;
  Bytes host = content(kSlot, 1), back(kSlot);
  const auto of_host = [&](Op op, Bytes& memory) {
    IoRequest r = rig.request(op, 0, 2);
    r.data = memory.data();
    return r;
  };
  rig.fill(1, content(kSlot, 2));
  rig.io.submit(std::array{of_host(Op::write, host), rig.request(Op::write, 1, 3)});
  CHECK(rig.errors() == std::vector<int>{0, 0});
  CHECK(rig.on_disk(2, kSlot) == host);
  CHECK(rig.on_disk(3, kSlot) == content(kSlot, 2));
  submit(rig.io, of_host(Op::read, back));
  rig.io.drain();
  CHECK(rig.tickets.back().done());
  CHECK(back == host);
  CHECK(rig.io.statistics().writes == 1);
  CHECK(rig.disk.statistics().writes == 2);
  rig.io.submit({});
  CHECK(rig.io.hashes());
  CHECK(rig.io.name() == "device");
}

TEST_CASE("errors of the disk are passed on and leave the device's memory alone", "[io][device_io]") {
  for_all_schedules(3, [](Lateness lateness, uint64_t seed) {
    DeviceRig rig({.lateness = lateness, .seed = seed});
    for (size_t i = 0; i < 4; ++i) rig.poison(i);
    rig.device.synchronize_stream(rig.compute);
    rig.disk.set_faults({.fail_from = 0, .fail_until = 2, .error = EIO});
    uint64_t hash = 77;
    IoRequest read = rig.request(Op::read, 0, 0);
    read.hash = &hash;
    rig.io.submit(std::array{read, rig.request(Op::write, 1, 1), rig.request(Op::read, 2, 2), rig.request(Op::read, 3, kPlaces - 1)});
    std::vector<int> errors = rig.errors();
    std::sort(errors.begin(), errors.end());
    CHECK(errors == std::vector<int>{0, 0, EIO, EIO});
    rig.io.drain();
    CHECK(rig.io.statistics().errors == 2);
    CHECK_NOTHROW(rig.io.rethrow());

    // the file ends inside
    rig.tickets.clear();
    rig.disk.set_faults({});
    REQUIRE(::ftruncate(rig.file.get(), kSlot / 2) == 0);
    rig.poison(0);
    submit(rig.io, read = rig.request(Op::read, 0, 0));
    CHECK(rig.errors() == std::vector<int>{IoTicket::kEndOfFile});
    rig.device.synchronize_stream(rig.compute);
    CHECK(rig.device.peek(rig.page(0), kSlot) == Bytes(kSlot, kPoison));
    // all slots are free again
    rig.tickets.clear();
    for (size_t i = 0; i < 20; ++i) submit(rig.io, rig.request(Op::write, i, 0));
    CHECK(rig.errors() == std::vector<int>(20));
  });
}

TEST_CASE("a device that fails at any call ends tickets with kDevice, and nothing hangs, leaks or throws", "[io][device_io]") {
  for (const Lateness lateness : {Lateness::late, Lateness::early, Lateness::random}) {
    size_t failures = 0, made = 0, n_ended = 0;
    for (int64_t n = 1;; ++n) {
      CAPTURE(static_cast<int>(lateness), n);
      bool broke = false;
      try {
        DeviceRig rig({.lateness = lateness, .seed = static_cast<uint64_t>(n), .slots = 2, .fail_call = n});
        ++made;
        std::vector<IoRequest> batch;
        for (const size_t p : {0, 1, 2, 3, 4, 5, 16, 17}) batch.push_back(rig.request(p % 2 == 0 ? Op::write : Op::read, p, p));
        rig.io.submit(batch);
        const std::vector<int> errors = rig.errors();
        for (const int e : errors) {
          CHECK((e == 0 || e == IoTicket::kDevice));
          n_ended += e == 0 ? 1 : 0;
        }
        rig.io.drain();
        CHECK(rig.io.statistics().errors == static_cast<uint64_t>(std::count(errors.begin(), errors.end(), IoTicket::kDevice)));
        if (std::count(errors.begin(), errors.end(), IoTicket::kDevice) > 0) {
          broke = true;
          CHECK_FAULT(rig.io.rethrow(), Fault::gpu, fmt::format("call {} failed on purpose", n));
          // from now on at once; the host's requests go on
          rig.tickets.clear();
          Bytes host(kSlot);
          IoRequest of_host = rig.request(Op::read, 0, 1);
          of_host.data = host.data();
          rig.io.submit(std::array{rig.request(Op::read, 0, 1), of_host, rig.request(Op::write, 0, 4)});
          CHECK(rig.errors() == std::vector<int>{0, IoTicket::kDevice, IoTicket::kDevice});
        }
      } catch (const Error& e) {  // while it was made
        broke = true;
        CHECK(e.fault() == Fault::gpu);
      }
      if (!broke) break;
      ++failures;
    }
    CHECK(failures > made);  // it also failed before the engine was there
    CHECK(n_ended > 8);
  }
}

TEST_CASE("neither direction waits for the other one, nor copies from and to pinned extents for the disk", "[io][device_io]") {
  const auto wait_until = [](auto&& condition) {
    while (!condition()) std::this_thread::yield();
  };
  for_all_schedules(2, [&](Lateness lateness, uint64_t seed) {
    for (const Op held : {Op::read, Op::write}) {
      const Op free = held == Op::read ? Op::write : Op::read;
      HoldingEngine disk(held);
      DeviceRig rig({.lateness = lateness, .seed = seed, .disk = &disk});
      const size_t slots = held == Op::read ? 8 : 4;
      for (size_t i = 0; i < 12; ++i) submit(rig.io, rig.request(held, i, 8 + i % 8));
      wait_until([&] { return disk.held() == slots; });
      std::deque<IoTicket> others;
      for (size_t i = 0; i < 40; ++i) {
        IoRequest r = rig.request(i % 4 == 0 ? held : free, 12 + i % 4, i % 4 == 0 ? 4 : i % 8);
        r.ticket = &others.emplace_back();
        rig.tickets.pop_back();
        submit(rig.io, r);
      }
      for (const IoTicket& t : others) CHECK(t.wait() == 0);
      CHECK(std::none_of(rig.tickets.begin(), rig.tickets.end(), [](const IoTicket& t) { return t.done(); }));
      CHECK(disk.held() == slots);
      CHECK(rig.io.device_statistics().slot_waits >= 12 - slots);
      disk.let_go();
      wait_until([&] { return disk.held() > 0; });
      while (!rig.tickets.back().done()) disk.let_go();
      CHECK(rig.errors() == std::vector<int>(12));
    }
  });
}

TEST_CASE("copies are in the trace and in the device's time", "[io][device_io]") {
  DeviceRig rig;
  std::vector<IoRequest> batch;
  for (size_t i = 0; i < 4; ++i) {
    batch.push_back(rig.request(i == 0 ? Op::write : Op::read, i, 4 + i, 1000));
    batch.back().what = "kv";
    batch.back().layer = static_cast<int32_t>(i);
    batch.back().micro_batch = 7;
  }
  rig.io.submit(batch);
  rig.io.drain();
  std::vector<TraceEvent> in, out;
  rig.trace.for_each([&](const TraceEvent& e) { (e.kind == TraceEvent::Kind::copy_in ? in : out).push_back(e); });
  REQUIRE(out.size() == 1);
  CHECK(out[0].kind == TraceEvent::Kind::copy_out);
  CHECK(std::string_view(out[0].what) == "kv");
  CHECK(out[0].layer == 0);
  CHECK(out[0].micro_batch == 7);
  CHECK(out[0].bytes == 1000);
  CHECK(out[0].start_ns == out[0].end_ns - 1000);  // a microsecond on the fake card
  REQUIRE(in.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(in[i].layer == static_cast<int32_t>(i) + 1);
    CHECK(in[i].start_ns <= in[i].end_ns);
    if (i > 0) CHECK(in[i].start_ns >= in[i - 1].end_ns);
  }
  const DeviceIoStatistics s = rig.io.device_statistics();
  CHECK(s.from_device.busy_s == Approx(1e-6));
  CHECK(s.to_device.busy_s >= 3e-6);
  CHECK(s.to_device.busy_s <= 4e-6);
  CHECK(s.to_device.bytes == 3000);
  CHECK(s.slot_waits == 0);
}

TEST_CASE("requests come from any thread, and none is pending after a drain", "[io][device_io]") {
  DeviceRig rig({.lateness = Lateness::random, .slots = 5});
  std::vector<std::thread> threads;
  std::deque<std::deque<IoTicket>> tickets(3);
  for (size_t t = 0; t < tickets.size(); ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 60; ++i) {
        const size_t place = t * 8 + i % 8;  // of this thread alone
        if (i >= 8) tickets[t][i - 8].wait();
        submit(rig.io, {i / 8 % 2 == 0 ? Op::write : Op::read, rig.file.get(), place * kSlot, rig.page(place), kSlot, &tickets[t].emplace_back()});
      }
    });
  for (std::thread& t : threads) t.join();
  rig.io.drain();
  for (const auto& of_thread : tickets)
    for (const IoTicket& t : of_thread) CHECK((t.done() && t.error() == 0));
  CHECK(rig.io.statistics().reads + rig.io.statistics().writes == 180);
}

TEST_CASE("an engine without a disk has extents alone", "[io][device_io]") {
  FakeDevice device;
  const DeviceStream compute(device);
  const DeviceMemory memory(device, 64_KiB);
  const Pinned host(device, 64_KiB);
  DeviceIoEngine io({.device = device, .compute = compute, .device_memory = {memory.memory()}, .resident = {{-1, 0, host.buffer.bytes()}}});
  const Bytes bytes = content(64_KiB, 3);
  std::memcpy(host.buffer.data(), bytes.data(), bytes.size());
  IoTicket ticket;
  const IoRequest whole{.fd = -1, .offset = 0, .data = memory.data(), .bytes = 64_KiB, .ticket = &ticket};
  submit(io, whole);
  CHECK(ticket.wait() == 0);
  CHECK(device.peek(memory.data(), bytes.size()) == bytes);

  IoRequest r = whole;
  r.fd = 3;
  CHECK_FAULT(submit(io, r), Fault::internal, "65536 bytes through a slot of 0");
  r = whole;
  r.offset = 1;
  CHECK_FAULT(submit(io, r), Fault::internal, "65536 bytes at 1 leave an extent");
  r = whole;
  r.data += 1;
  CHECK_FAULT(submit(io, r), Fault::internal, "65536 bytes are partly on the device");
  Bytes elsewhere(10);
  r.data = elsewhere.data();
  r.bytes = 10;
  CHECK_FAULT(submit(io, r), Fault::internal, "10 bytes of host memory");
  r = whole;
  r.ticket = nullptr;
  CHECK_FAULT(submit(io, r), Fault::internal, "without a free ticket");
  CHECK(ticket.done());
}

TEST_CASE("pageable memory behind a device needs slots, and no disk", "[io][device_io]") {
  for_all_schedules(3, [](Lateness lateness, uint64_t seed) {
    FakeDevice device({.lateness = lateness, .seed = seed});
    const DeviceStream compute(device);
    const DeviceMemory memory(device, 4 * kSlot);
    Pinned bounce(device, 2 * kSlot);
    Buffer host(4 * kSlot);
    DeviceIoOptions o{.device = device, .compute = compute, .device_memory = {memory.memory()}, .resident = {{-1, 0, host.bytes(), false}}};
    CHECK_FAULT(DeviceIoEngine(o), Fault::internal, "0 slots of 0 bytes");
    o.bounce = bounce.buffer.bytes(), o.slot_bytes = kSlot;
    DeviceIoEngine io(o);
    const Bytes bytes = content(host.size(), seed);
    std::memcpy(host.data(), bytes.data(), bytes.size());
    std::deque<IoTicket> tickets;
    std::vector<IoRequest> batch;
    for (size_t i = 0; i < 4; ++i) batch.push_back({Op::read, -1, i * kSlot, memory.data() + i * kSlot, kSlot, &tickets.emplace_back()});
    io.submit(batch);
    io.drain();
    CHECK(device.peek(memory.data(), bytes.size()) == bytes);
    CHECK(io.device_statistics().slot_waits > 0);
    batch[0].bytes = kSlot + 1;
    CHECK_FAULT(submit(io, batch[0]), Fault::internal, "16385 bytes through a slot of 16384");
  });
}

TEST_CASE("what an engine cannot be made of is a bug of its maker", "[io][device_io]") {
  DeviceRig rig;
  const auto made_of = [&](std::span<std::byte> bounce, size_t slot_bytes, std::vector<HostExtent> resident) {
    DeviceIoEngine({.device = rig.device, .compute = rig.compute, .device_memory = {}, .disk = &rig.disk, .bounce = bounce, .slot_bytes = slot_bytes,
                    .resident = std::move(resident)});
  };
  const std::span<std::byte> bounce = rig.bounce.buffer.bytes();
  made_of(bounce, kSlot, {});
  CHECK_FAULT(made_of(bounce.first(2 * kSlot - 1), kSlot, {}), Fault::internal, "1 slots of 16384 bytes");
  CHECK_FAULT(made_of(bounce, 0, {}), Fault::internal, "0 slots of 0 bytes");
  CHECK_FAULT(made_of(bounce.subspan(512), kSlot, {}), Fault::internal, "11 slots of 16384 bytes");
  CHECK_FAULT(made_of(bounce, kSlot, {{3, 100, bounce}, {3, 50, bounce.first(10)}}), Fault::internal, "extents 0 and 1");
  CHECK_FAULT(made_of(bounce, kSlot, {{3, 50, bounce.first(51)}, {3, 100, bounce}}), Fault::internal, "extents 0 and 1");
  made_of(bounce, kSlot, {{3, 50, bounce.first(50)}, {3, 100, bounce}, {4, 0, bounce}});
}
