// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/uring_backend.h"

#include <future>

#include "flexgen/io/queued_engine.h"
#include "support/catch.h"
#include "support/io_files.h"

using namespace flexgen;

#if !defined(__SANITIZE_THREAD__)  // which does not see the order that io_uring gives

namespace {

std::unique_ptr<UringBackend> ring_or_skip(UringOptions options = {}) {
  try {
    return std::make_unique<UringBackend>(std::move(options));
  } catch (const std::system_error& e) {
    WARN("skipped: no io_uring here: " << e.what());
    return nullptr;
  }
}

}  // namespace

TEST_CASE("a ring reports what one read or write said", "[io]") {
  auto ring = ring_or_skip();
  if (!ring) return;
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", "0123456789"));
  std::array<char, 8> memory{};
  auto* const data = reinterpret_cast<std::byte*>(memory.data());
  std::array<std::promise<int64_t>, 4> results;
  ring->listen([&](uint64_t tag, int64_t result) { results[tag].set_value(result); });
  CHECK(ring->name() == "io_uring");
  CHECK(ring->note().empty());
  const std::array<IoAttempt, 4> attempts{IoAttempt{IoRequest::Op::read, file.fd(), 6, data, 8, 0},
                                          {IoRequest::Op::read, file.fd(), 10, data + 4, 1, 1},
                                          {IoRequest::Op::read, -1, 0, data, 8, 2},
                                          {IoRequest::Op::write, file.fd(), 0, data, 8, 3}};
  ring->start(attempts);
  CHECK(results[0].get_future().get() == 4);
  CHECK(results[1].get_future().get() == 0);
  CHECK(results[2].get_future().get() == -EBADF);
  CHECK(results[3].get_future().get() == -EBADF);
  CHECK(std::string(memory.data(), 4) == "6789");
}

TEST_CASE("a ring carries a file in and out, through fixed buffers and files where it can", "[io]") {
  const bool fixed = GENERATE(false, true);
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(9_MiB + 8192);
  const Fd fd = testing::open_direct(dir / "f", O_RDWR | O_CREAT);
  const Buffer memory(2_MiB);
  auto ring = ring_or_skip(fixed ? UringOptions{memory.bytes(), {fd.get()}} : UringOptions{});
  if (!ring) return;
  if (fixed && ring->fixed_buffers() == 0) WARN("no fixed buffers: " << ring->note());
  CHECK((ring->fixed_buffers() == 1 || !fixed || !ring->note().empty()));
  CHECK((ring->fixed_files() == 1 || !fixed || !ring->note().empty()));
  QueuedEngine engine(std::move(ring));
  testing::write_all(engine, fd.get(), content);
  CHECK(testing::read_all(engine, fd.get(), content.size()) == content);
  std::vector<IoRequest> requests;
  std::deque<IoTicket> tickets(8);
  for (size_t i = 0; i < 8; ++i)  // into the fixed buffer
    requests.push_back({IoRequest::Op::read, fd.get(), i * 1_MiB, memory.data() + i * 256_KiB, 256_KiB, &tickets[i]});
  engine.submit(requests);
  engine.drain();
  for (size_t i = 0; i < 8; ++i) {
    CHECK(tickets[i].error() == 0);
    CHECK(std::memcmp(memory.data() + i * 256_KiB, content.data() + i * 1_MiB, 256_KiB) == 0);
  }
  IoTicket write;
  const IoRequest back{IoRequest::Op::write, fd.get(), 4_MiB, memory.data(), 256_KiB, &write};
  engine.submit({&back, 1});
  CHECK(write.wait() == 0);
  CHECK(testing::read_all(engine, fd.get(), content.size()).substr(4_MiB, 256_KiB) == content.substr(0, 256_KiB));
}

TEST_CASE("what cannot be fixed is done without, and said", "[io]") {
  auto ring = ring_or_skip({{}, {-5}});
  if (!ring) return;
  CHECK(ring->fixed_files() == 0);
  CHECK_THAT(ring->note(), Catch::Contains("files are not fixed (Bad file descriptor)"));
}

TEST_CASE("a ring takes as many attempts as may be under way, again and again", "[io]") {
  auto ring = ring_or_skip();
  if (!ring) return;
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(1_MiB);
  const File file = File::open(dir.write("f", content));
  const Buffer buffer(content.size());
  QueuedEngine engine(std::move(ring), {.depth = static_cast<int>(IoBackend::kMostAttempts)});
  std::deque<IoTicket> tickets(4096);
  std::vector<IoRequest> requests;
  for (size_t i = 0; i < tickets.size(); ++i) {
    const size_t at = i % 256 * 4096;
    requests.push_back({IoRequest::Op::read, file.fd(), at, buffer.data() + at, 4096, &tickets[i]});
  }
  engine.submit(requests);
  engine.drain();
  for (const IoTicket& t : tickets) CHECK(t.error() == 0);
  CHECK(std::memcmp(buffer.data(), content.data(), content.size()) == 0);
  CHECK(engine.statistics().reads == tickets.size());
}

#endif
