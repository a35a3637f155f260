// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/direct_reader.h"

#include <random>

#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;

TEST_CASE("any stretch of a file is read, past the page cache or through it", "[io]") {
  const testing::TempDir dir;
  std::mt19937 random(11);
  std::string bytes(300'001, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  const File file = File::open(dir.write("f", bytes));
  const DirectReader reader(file);
  const Buffer buffer(DirectReader::buffer_bytes(bytes.size()));
  const auto check = [&](uint64_t offset, size_t size) {
    const auto got = reader.read(offset, size, buffer);
    REQUIRE(got.size() == size);
    CHECK(std::memcmp(got.data(), bytes.data() + offset, size) == 0);
  };
  for (const uint64_t offset : {0, 1, 4095, 4096, 4097, 100'000})
    for (const size_t size : {0, 1, 4096, 65535, 65536, 65537, 200'001}) check(offset, size);
  check(0, bytes.size());
  check(bytes.size() - 70'000, 70'000);  // up to an end that is not on a page
  CHECK_FAULT(reader.read(bytes.size() - 70'000, 70'001, buffer), Fault::damaged, "f: ends at byte 300001");
  CHECK_FAULT(reader.read(400'000, 10, buffer), Fault::damaged, "f: ends at byte");
  CHECK_FAULT(reader.read(0, 4096, Buffer(4096)), Fault::internal, "4096 bytes into a buffer of 4096");
}
