// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/checkpoint.h"

#include <filesystem>

#include "flexgen/format/crc32.h"
#include "flexgen/format/row_reader.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;

namespace {

// Every tensor of the folder against what Python's own modules read there (tests/data/golden/make_tensors.py)
void check_tensors(const std::string& folder, const std::string& name) {
  INFO(folder);
  const auto expected = parse_json(read_text_file(testing::test_data("golden/tensors.json")), "tensors.json")[name];
  const Checkpoint c = Checkpoint::open(folder);
  REQUIRE(c.tensors().size() == expected.size());
  for (const StoredTensor& t : c.tensors()) {
    INFO(t.name);
    REQUIRE(expected.contains(t.name));
    const auto& e = expected[t.name];
    require_readable(t, c.path(t));
    CHECK(t.dtype_name == e[0]);
    CHECK(t.shape == e[1].get<Shape>());
    std::vector<std::byte> bytes(t.bytes());
    read_rows(c, t, 0, t.shape[0], bytes);
    const uint32_t crc = crc32(bytes);
    CHECK(crc == e[2].get<uint32_t>());
    if (t.crc32) CHECK(crc == *t.crc32);
    // a few rows at a time, with as little memory as it takes
    std::vector<std::byte> pieces(t.bytes());
    RowReader reader(c, t, 0);
    for (int64_t row = 0; row < t.shape[0]; row += 37) {
      const int64_t n = std::min<int64_t>(37, t.shape[0] - row);
      reader.read(row, n, std::span(pieces).subspan(static_cast<size_t>(row) * reader.row_bytes(), static_cast<size_t>(n) * reader.row_bytes()));
    }
    CHECK(pieces == bytes);
  }
}

}  // namespace

TEST_CASE("the committed checkpoints are read as Python reads them", "[format]") {
  for (const char* name : {"prenorm-f16-bin", "postnorm-proj-f16", "head128-bf16-sharded"}) check_tensors(testing::test_data(std::string("golden/") + name), name);
  check_tensors(testing::test_data("tiny-opt"), "tiny-opt");
}

TEST_CASE("all golden checkpoints are read as Python reads them", "[format]") {
  const auto golden = testing::shared_data("golden/opt");
  if (!golden) return;
  size_t n = 0;
  for (const auto& folder : std::filesystem::directory_iterator(*golden)) {
    check_tensors(folder.path().string(), folder.path().filename().string());
    ++n;
  }
  CHECK(n == 13);
}
