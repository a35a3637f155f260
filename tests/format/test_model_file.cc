// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/model_file.h"

#include "support/errors.h"
#include "support/small_model.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::TempDir;

namespace {

std::vector<std::byte> read_block(const ModelFile& m, size_t i) {
  std::vector<std::byte> bytes(m.blocks()[i].bytes);
  m.file().read(m.blocks()[i].offset, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("what was written is what is read", "[format]") {
  const TempDir dir;
  const uint64_t alignment = GENERATE(4096, 65536, 2097152);
  testing::write_small_model(dir / "m.flex", testing::kSmallModelJson, alignment);
  const ModelFile m = ModelFile::open(dir / "m.flex");
  CHECK(m.alignment() == alignment);
  CHECK(m.id() == testing::kSmallModelId);
  CHECK(m.description() == nlohmann::json::parse(testing::kSmallModelJson));
  const auto expected = testing::small_model_records();
  REQUIRE(m.records().size() == expected.size());
  size_t n = 0;
  for (size_t r = 0; r < expected.size(); ++r) {
    CHECK(m.records()[r].name == expected[r].name);
    CHECK(m.records()[r].offset % alignment == 0);
    REQUIRE(m.records()[r].n_tensors == expected[r].tensors.size());
    for (const PlannedTensor& want : expected[r].tensors) {
      const FileTensor& t = m.tensors()[n];
      CHECK(t.name == want.name);
      CHECK(t.dtype == want.dtype);
      CHECK(t.shape == want.shape);
      CHECK(t.offset % (t.is_vector() ? 256 : 4096) == 0);
      CHECK(m.find(want.name) == &t);
      const int64_t cols = t.is_vector() ? 1 : t.shape[1];
      bool same = true;
      for (int64_t e = 0; e < t.shape[0] * cols; ++e) {  // through the block list, as every reader must
        const int64_t row = e / cols, in_block = t.is_vector() ? 0 : row / t.rows_per_block;
        const FileBlock& b = m.blocks()[t.first_block + static_cast<size_t>(in_block)];
        const uint64_t at = t.is_vector() ? t.offset + static_cast<uint64_t>(e) * size_of(t.dtype)
                                          : b.offset + static_cast<uint64_t>(e - in_block * t.rows_per_block * cols) * size_of(t.dtype);
        std::byte raw[4], want_raw[4];
        m.file().read(at, std::span(raw).first(size_of(t.dtype)));
        store_element(t.dtype, want_raw, 0, testing::small_model_value(n, e));
        same = same && std::memcmp(raw, want_raw, size_of(t.dtype)) == 0;
      }
      CHECK(same);
      ++n;
    }
  }
  CHECK(n == m.tensors().size());
  CHECK(m.find("embed.token") == nullptr);
  for (size_t i = 0; i < m.blocks().size(); ++i) CHECK_NOTHROW(m.verify_block(i, read_block(m, i)));
}

TEST_CASE("a damaged block is named with tensor, block and offset", "[format]") {
  const TempDir dir;
  testing::write_small_model(dir / "m.flex");
  const ModelFile m = ModelFile::open(dir / "m.flex");
  const FileTensor* qkv = m.find("layers.0.attn.qkv.weight");
  REQUIRE(qkv != nullptr);
  REQUIRE(qkv->n_blocks == 2);
  auto bytes = read_block(m, qkv->first_block + 1);
  bytes[100] ^= std::byte{1};
  CHECK_FAULT(m.verify_block(qkv->first_block + 1, bytes), Fault::damaged,
              fmt::format("m.flex: weights damaged: tensor 'layers.0.attn.qkv.weight', rows 64 to 95, block {}, bytes {} to {} of the file: found hash ",
                          qkv->first_block + 1, qkv->offset + 4096, qkv->offset + 6143 + 2048));
  // a right block at a wrong place
  CHECK_FAULT(m.verify_block(1, read_block(m, 0)), Fault::damaged, "weights damaged: tensor 'embed.tokens', rows 64 to 69, block 1");
  auto vectors = read_block(m, m.records()[1].first_block);
  vectors[4095] = std::byte{1};
  CHECK_FAULT(m.verify_block(m.records()[1].first_block, vectors), Fault::damaged, "weights damaged: vectors of record 'layers.0.attn', block");
}
