// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/row_reader.h"

#include <cstring>

#include "support/errors.h"
#include "support/temp_dir.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

struct Layout {
  const char* what;
  int64_t numel;  // of the storage
  int64_t first;
  std::vector<int64_t> shape, strides;
};

// Reads all rows, n_rows at a time, and holds every element to its place in the storage, whose element i has the value i (mod 2^16).
void check(const Checkpoint& c, const Layout& l, int64_t n_rows, size_t buffer_bytes) {
  INFO(l.what << ", " << n_rows << " rows at a time, buffer " << buffer_bytes);
  const StoredTensor& t = *c.find("w");
  RowReader reader(c, t, buffer_bytes);
  const int64_t cols = l.shape.size() < 2 ? 1 : l.shape[1], col_stride = l.shape.size() < 2 ? 1 : l.strides[1];
  REQUIRE(reader.rows() == l.shape[0]);
  REQUIRE(reader.cols() == cols);
  int64_t wrong = 0;
  for (int64_t row = 0; row < l.shape[0]; row += n_rows) {
    const int64_t n = std::min(n_rows, l.shape[0] - row);
    std::vector<uint16_t> got(static_cast<size_t>(n * cols));
    reader.read(row, n, std::as_writable_bytes(std::span(got)));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t k = 0; k < cols; ++k)
        wrong += got[static_cast<size_t>(r * cols + k)] != static_cast<uint16_t>(l.first + (row + r) * l.strides[0] + k * col_stride);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("every element of every layout, whatever is asked for at a time", "[format]") {
  const Layout layouts[] = {
      {"contiguous", 6000, 0, {60, 100}, {100, 1}},
      {"contiguous within", 7000, 500, {60, 100}, {100, 1}},
      {"column-major", 6000, 0, {60, 100}, {1, 60}},
      {"column-major, larger than the buffer", 300 * 700, 0, {300, 700}, {1, 300}},
      {"column-major, with gaps", 400 * 700, 50, {300, 700}, {1, 400}},
      {"rows with gaps", 60 * 150, 7, {60, 100}, {150, 1}},
      {"rows far apart", 20 * 50'000, 3, {20, 100}, {50'000, 1}},
      {"every other element", 12'000, 1, {60, 100}, {200, 2}},
      {"both strides large", 50 * 60 * 70, 5, {50, 60}, {60 * 70, 70}},
      {"the same row again", 100, 0, {60, 100}, {0, 1}},
      {"the same element again", 10, 9, {60, 100}, {0, 0}},
      {"overlapping rows", 200, 0, {60, 100}, {1, 1}},
      {"a vector", 100, 10, {50}, {1}},
      {"a vector with gaps", 1000, 10, {50}, {19}},
      {"one wide row", 200'000, 0, {1, 100'000}, {1, 2}},
  };
  for (const Layout& l : layouts) {
    using namespace testing::pickle;
    std::vector<uint16_t> values(static_cast<size_t>(l.numel));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
    const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * 2);
    TempDir dir;
    const std::string path =
        dir.write("m.bin", zip_bin(whole(dict({{"w", tensor(storage("HalfStorage", "0", l.numel), l.first, l.shape, l.strides)}})), {{"0", bytes}}));
    const Checkpoint c = Checkpoint::open_file(path);
    for (const int64_t n : {1, 7, 1000})
      for (const size_t buffer : {size_t{0}, size_t{128} << 10, size_t{32} << 20}) check(c, l, n, buffer);
  }
}

TEST_CASE("rows outside the tensor are a caller's mistake", "[format]") {
  using namespace testing::pickle;
  TempDir dir;
  const Checkpoint c = Checkpoint::open_file(
      dir.write("m.bin", zip_bin(whole(dict({{"w", tensor(storage("HalfStorage", "0", 6), 0, {3, 2}, {2, 1})}})), {{"0", "123456789012"}})));
  std::vector<std::byte> dst(8);
  CHECK_NOTHROW(read_rows(c, *c.find("w"), 1, 2, dst));
  CHECK_FAULT(read_rows(c, *c.find("w"), 2, 2, dst), Fault::internal, "rows 2 + 2 of 3");
  CHECK_FAULT(read_rows(c, *c.find("w"), -1, 2, dst), Fault::internal, "rows -1 + 2 of 3");
  CHECK_FAULT(read_rows(c, *c.find("w"), 0, 3, dst), Fault::internal, "8 bytes for 3 rows of 4");
}
