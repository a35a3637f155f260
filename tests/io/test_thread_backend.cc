// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/thread_backend.h"

#include <future>

#include "support/catch.h"
#include "support/io_files.h"

using namespace flexgen;

TEST_CASE("threads report what one pread or pwrite said", "[io]") {
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", "0123456789"));
  std::array<char, 8> memory{};
  auto* const data = reinterpret_cast<std::byte*>(memory.data());
  std::array<std::promise<int64_t>, 4> results;
  ThreadBackend threads;
  threads.listen([&](uint64_t tag, int64_t result) { results[tag].set_value(result); });
  CHECK(threads.name() == "threads");
  CHECK(threads.note().empty());
  CHECK_THROWS(threads.listen([](uint64_t, int64_t) {}));
  const std::array<IoAttempt, 2> reads{IoAttempt{IoRequest::Op::read, file.fd(), 6, data, 8, 0}, {IoRequest::Op::read, file.fd(), 10, data, 8, 1}};
  threads.start(reads);
  CHECK(results[0].get_future().get() == 4);
  CHECK(results[1].get_future().get() == 0);
  CHECK(std::string(memory.data(), 4) == "6789");
  const std::array<IoAttempt, 2> bad{IoAttempt{IoRequest::Op::read, -1, 0, data, 8, 2}, {IoRequest::Op::write, file.fd(), 0, data, 8, 3}};
  threads.start(bad);
  CHECK(results[2].get_future().get() == -EBADF);
  CHECK(results[3].get_future().get() == -EBADF);  // opened for reading
}
