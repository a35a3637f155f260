// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/faulty_backend.h"

#include <atomic>
#include <future>

#include "flexgen/io/queued_engine.h"
#include "flexgen/io/thread_backend.h"
#include "support/io_files.h"
#include "support/errors.h"

using namespace flexgen;

namespace {

struct MemoryDisk {
  explicit MemoryDisk(const char* faults, size_t bytes = 2_MiB) : content(testing::random_bytes(bytes)) {
    testing::write_file(dir / "f", content);
    fd = testing::open_direct(dir / "f", O_RDWR);
    backend = std::make_unique<FaultyBackend>(std::make_unique<ThreadBackend>(), parse_fault_spec(faults));
    backend->listen([this](uint64_t tag, int64_t result) {
      order.push_back(tag);
      results[tag].set_value(result);
    });
  }
  IoAttempt read(uint64_t offset, size_t n, uint64_t tag) { return {IoRequest::Op::read, fd.get(), offset, memory.data() + offset, n, tag}; }
  IoAttempt write(uint64_t offset, size_t n, uint64_t tag) { return {IoRequest::Op::write, fd.get(), offset, memory.data() + offset, n, tag}; }
  int64_t result(const IoAttempt& a) {
    backend->start({&a, 1});
    return results[a.tag].get_future().get();
  }
  bool holds_file(uint64_t offset, size_t n) const { return std::memcmp(memory.data() + offset, content.data() + offset, n) == 0; }
  std::string on_disk() const {
    std::string s(content.size(), '\0');
    File::open(dir / "f").read(0, std::as_writable_bytes(std::span(s)));
    return s;
  }

  testing::TempDir dir;
  std::string content;
  Fd fd;
  Buffer memory{4_MiB};
  std::array<std::promise<int64_t>, 64> results;
  std::vector<uint64_t> order;  // of the reports
  std::unique_ptr<FaultyBackend> backend;
};

int bits_that_differ(const void* a, const void* b, size_t n) {
  int bits = 0;
  for (size_t i = 0; i < n; ++i) bits += __builtin_popcount(static_cast<const unsigned char*>(a)[i] ^ static_cast<const unsigned char*>(b)[i]);
  return bits;
}

}  // namespace

TEST_CASE("without faults nothing is changed", "[io]") {
  MemoryDisk d("");
  CHECK(d.backend->name() == "threads");
  CHECK(d.result(d.read(0, 65536, 0)) == 65536);
  CHECK(d.holds_file(0, 65536));
}

TEST_CASE("the n-th attempt fails, once or from then on, counted by direction", "[io]") {
  MemoryDisk d("read:eio@2,write:enospc@1+,read:eagain@4,read:eintr@5");
  CHECK(d.result(d.read(0, 4096, 0)) == 4096);
  CHECK(d.result(d.write(0, 4096, 1)) == -ENOSPC);
  CHECK(d.result(d.read(0, 4096, 2)) == -EIO);
  CHECK(d.result(d.read(0, 4096, 3)) == 4096);
  CHECK(d.result(d.write(0, 4096, 4)) == -ENOSPC);
  CHECK(d.result(d.read(0, 4096, 5)) == -EAGAIN);
  CHECK(d.result(d.read(0, 4096, 6)) == -EINTR);
  CHECK(d.result(d.read(0, 4096, 7)) == 4096);
  CHECK(d.on_disk() == d.content);
}

TEST_CASE("a short read scribbles over what it did not read; a short write leaves the rest", "[io]") {
  MemoryDisk d("short=1");
  const int64_t n = d.result(d.read(0, 65536, 0));
  REQUIRE((n > 0 && n < 65536));
  CHECK(d.holds_file(0, static_cast<size_t>(n)));
  CHECK_FALSE(d.holds_file(0, 65536));
  std::memset(d.memory.data(), 0x11, 65536);
  const int64_t written = d.result(d.write(0, 65536, 1));
  REQUIRE((written > 0 && written < 65536));
  const std::string now = d.on_disk();
  CHECK(now.substr(0, static_cast<size_t>(written)) == std::string(static_cast<size_t>(written), 0x11));
  CHECK(now.substr(round_up(static_cast<size_t>(written), kIoAlign)) == d.content.substr(round_up(static_cast<size_t>(written), kIoAlign)));
}

TEST_CASE("a flipped bit is one bit, on the way in or on disk", "[io]") {
  MemoryDisk d("flip@1,write:flip@1");
  CHECK(d.result(d.read(0, 8192, 0)) == 8192);
  CHECK(bits_that_differ(d.memory.data(), d.content.data(), 8192) == 1);
  CHECK(d.result(d.read(0, 8192, 1)) == 8192);
  CHECK(d.holds_file(0, 8192));
  CHECK(d.result(d.write(0, 8192, 2)) == 8192);
  CHECK(d.holds_file(0, 8192));  // the caller's memory is as it was
  CHECK(bits_that_differ(d.on_disk().data(), d.content.data(), d.content.size()) == 1);
}

TEST_CASE("a misdirected read brings what lies elsewhere", "[io]") {
  MemoryDisk d("misdirect=1");
  for (const uint64_t offset : {0, 8192, 1 << 20}) {
    CHECK(d.result(d.read(offset, 4096, offset / 8192 % 60)) == 4096);
    CHECK_FALSE(d.holds_file(offset, 4096));
    CHECK(d.content.find(std::string(reinterpret_cast<const char*>(d.memory.data() + offset), 4096)) % 4096 == 0);
  }
}

TEST_CASE("a delay holds one result back, not the others", "[io]") {
  MemoryDisk d("delay@1:30ms");
  const int64_t before = monotonic_ns();
  const std::array<IoAttempt, 2> both{d.read(0, 4096, 0), d.read(4096, 4096, 1)};
  d.backend->start(both);
  CHECK(d.results[1].get_future().get() == 4096);
  CHECK(d.results[0].get_future().get() == 4096);
  CHECK(d.order == std::vector<uint64_t>{1, 0});
  CHECK(monotonic_ns() - before >= 30'000'000);
  CHECK(d.holds_file(0, 8192));
}

TEST_CASE("results come in another order than they were asked for", "[io]") {
  MemoryDisk d("reorder=16,seed=3");
  std::vector<IoAttempt> attempts;
  for (uint64_t i = 0; i < 50; ++i) attempts.push_back(d.read(i * 4096, 4096, i));
  d.backend->start(attempts);
  for (uint64_t i = 0; i < 50; ++i) CHECK(d.results[i].get_future().get() == 4096);
  CHECK_FALSE(std::is_sorted(d.order.begin(), d.order.end()));
  CHECK(d.holds_file(0, 50 * 4096));
}

TEST_CASE("through the engine the same bytes arrive whatever goes wrong in passing", "[io]") {
  const auto* const faults = GENERATE("short=0.3,eagain=0.2,eintr=0.2", "eio@3,short@5,eagain@7", "delay=0.05:2ms,reorder=5,short=0.1",
                                      "short=0.01,eagain=0.01,delay=0.001:50ms");
  CAPTURE(faults);
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(12_MiB + 4096);
  QueuedEngine engine(std::make_unique<FaultyBackend>(std::make_unique<ThreadBackend>(), parse_fault_spec(faults)));
  const Fd fd = testing::open_direct(dir / "f", O_RDWR | O_CREAT);
  testing::write_all(engine, fd.get(), content);
  CHECK(testing::read_all(engine, fd.get(), content.size()) == content);
  CHECK(testing::read_all(engine, fd.get(), content.size()) == content);
  const IoStatistics s = engine.statistics();
  CHECK(s.bytes_written == content.size());
  CHECK(s.bytes_read == 2 * content.size());
  CHECK(s.errors == 0);
}

TEST_CASE("the engine counts each retry and each resumption", "[io]") {
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", testing::random_bytes(1_MiB)));
  QueuedEngine engine(std::make_unique<FaultyBackend>(std::make_unique<ThreadBackend>(), parse_fault_spec("eio@1,eagain@2,eintr@3,short@4,eio@6")));
  const Buffer buffer(65536);
  IoTicket ticket;
  const IoRequest r{IoRequest::Op::read, file.fd(), 0, buffer.data(), 65536, &ticket};
  engine.submit({&r, 1});
  CHECK(ticket.wait() == 0);
  CHECK(engine.statistics().retries == 3);
  CHECK(engine.statistics().short_transfers == 1);
  engine.submit({&r, 1});
  CHECK(ticket.wait() == 0);
  engine.drain();
  CHECK(engine.statistics().retries == 4);
  CHECK(engine.statistics().reads == 2);
  CHECK(engine.statistics().bytes_read == 131072);
}

TEST_CASE("what lasts becomes the request's error", "[io]") {
  const auto [faults, error] = GENERATE(std::pair{"eio@2+", EIO}, std::pair{"eagain=1", EAGAIN}, std::pair{"eintr=1", EINTR});
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", testing::random_bytes(1_MiB)));
  QueuedEngine engine(std::make_unique<FaultyBackend>(std::make_unique<ThreadBackend>(), parse_fault_spec(faults)));
  int got = 0;
  testing::read_all(engine, file.fd(), 1_MiB, &got);
  CHECK(got == error);
  CHECK(engine.statistics().errors > 0);
}
