// SPDX-License-Identifier: Apache-2.0
#include "flexgen/memory/buffer.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

static_assert(!std::is_copy_constructible_v<Buffer> && std::is_nothrow_move_constructible_v<Buffer> && std::is_nothrow_move_assignable_v<Buffer>);

TEST_CASE("a buffer is zero, writable to its last byte, and aligned for O_DIRECT", "[memory]") {
  for (size_t size : {size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{2_MiB} - 1, size_t{2_MiB}, size_t{2_MiB} + 1, size_t{7_MiB}}) {
    CAPTURE(size);
    const Buffer buffer(size);
    REQUIRE(buffer.size() == size);
    REQUIRE(buffer.bytes().size() == size);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % (size >= Buffer::kHugePage ? Buffer::kHugePage : 4096) == 0);
    CHECK(std::all_of(buffer.bytes().begin(), buffer.bytes().end(), [](std::byte b) { return b == std::byte{0}; }));
    std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{0x5A});
    CHECK(buffer.as<uint8_t>()[size - 1] == 0x5A);
  }
}

TEST_CASE("an empty buffer owns nothing", "[memory]") {
  const Buffer none, zero(0);
  CHECK(none.data() == nullptr);
  CHECK(zero.size() == 0);
  CHECK(zero.bytes().empty());
}

TEST_CASE("moving a buffer moves the memory", "[memory]") {
  Buffer a(100);
  std::byte* const data = a.data();
  Buffer b(std::move(a));
  CHECK(b.data() == data);
  CHECK(a.data() == nullptr);
  CHECK(a.size() == 0);
  Buffer c(3_MiB);
  c = std::move(b);
  CHECK(c.data() == data);
  CHECK(c.size() == 100);
  Buffer& same = c;
  c = std::move(same);
  CHECK(c.data() == data);
}

TEST_CASE("memory that no system has is refused, and sizes near the limit of the type do not wrap", "[memory]") {
  CHECK_FAULT(Buffer(size_t{1} << 60), Fault::space, "out of memory: 1024 PiB were asked for");
  CHECK_FAULT(Buffer(std::numeric_limits<size_t>::max()), Fault::space, "out of memory: 16384 PiB were asked for");
  CHECK_FAULT(Buffer(std::numeric_limits<size_t>::max() - 2_MiB), Fault::space, "Lower the memory budget");
}
