// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/model_file.h"

#include "support/errors.h"
#include "support/model_image.h"
#include "support/small_model.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::ModelImage;
using testing::TempDir;

namespace {

std::vector<std::byte> read_block(const ModelFile& m, size_t i) {
  std::vector<std::byte> bytes(m.blocks()[i].bytes);
  m.file().read(m.blocks()[i].offset, bytes);
  return bytes;
}

ModelImage small_image() {
  const TempDir dir;
  testing::write_small_model(dir / "m.flex");
  return ModelImage(read_text_file(dir / "m.flex"));
}

// The message for the small model with one change, hashes made right
#define CHECK_REFUSED(change, expected_fault, message)                                                       \
  do {                                                                                                       \
    ModelImage m = small_image();                                                                            \
    [&] { change; }();                                                                                       \
    CHECK_FAULT(m.seal().open(), expected_fault, std::string("m.flex: ") + (message));                       \
  } while (false)

void set_name(layout::NameField& field, std::string_view name) {
  field = {};
  std::copy(name.begin(), name.end(), field.begin());
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
  CHECK_FAULT(
      m.verify_block(qkv->first_block + 1, bytes), Fault::damaged,
      fmt::format("m.flex: weights damaged: tensor 'layers.0.attn.qkv.weight', rows 64 to 95, block {}, bytes {} to {} of the file: found hash ",
                  qkv->first_block + 1, qkv->offset + 4096, qkv->offset + 6143 + 2048));
  // a right block at a wrong place
  CHECK_FAULT(m.verify_block(1, read_block(m, 0)), Fault::damaged, "weights damaged: tensor 'embed.tokens', rows 64 to 69, block 1");
  auto vectors = read_block(m, m.records()[1].first_block);
  vectors[4095] = std::byte{1};
  CHECK_FAULT(m.verify_block(m.records()[1].first_block, vectors), Fault::damaged, "weights damaged: vectors of record 'layers.0.attn', block");
}

TEST_CASE("what is no model file is named", "[format]") {
  const auto open = [](std::string_view bytes) { return ModelFile::open(testing::memory_file(bytes, "m.flex")); };
  using namespace std::string_view_literals;
  CHECK_FAULT(open(""), Fault::checkpoint, "m.flex: is empty (0 bytes); a model file is expected. Make one with flexgen convert");
  CHECK_FAULT(open("GGUF\3\0\0\0"sv), Fault::checkpoint, "m.flex: is not a flexgen model file: found a GGUF file. Make one with flexgen convert");
  CHECK_FAULT(open("PK\3\4\0\0\0\0"sv), Fault::checkpoint, "found a zip archive, perhaps a PyTorch checkpoint");
  CHECK_FAULT(open("\x80\x02\x8a\x0a"sv), Fault::checkpoint, "found a pickle, perhaps a legacy PyTorch checkpoint");
  CHECK_FAULT(open("\x40\0\0\0\0\0\0\0{\"a\":"sv), Fault::checkpoint, "found a safetensors file");
  CHECK_FAULT(open("version https://git-lfs.github.com/spec/v1\n"), Fault::checkpoint,
              "found a Git LFS pointer; fetch the file itself with git lfs pull");
  CHECK_FAULT(open("<!DOCTYPE html>"), Fault::checkpoint, "found a web page; download the file again");
  CHECK_FAULT(open("hello"), Fault::checkpoint, "found an unknown format");
  CHECK_FAULT(open("\x89" "FLEX"), Fault::damaged, "m.flex: ends at byte 5 inside its header of 4,096 bytes: truncated. Copy or convert it again");
  const TempDir dir;
  CHECK_FAULT(ModelFile::open(dir.path()), Fault::checkpoint, "is a folder; a regular file is needed");
  CHECK_FAULT(ModelFile::open(dir / "none.flex"), Fault::io, "none.flex: cannot be opened: No such file or directory");
}

TEST_CASE("a header that cannot be is refused", "[format]") {
  CHECK_REFUSED(m.header().version = 7, Fault::checkpoint, "format version 7 is newer than this program reads (1). Update flexgen");
  CHECK_REFUSED(m.header().version = 0, Fault::checkpoint, "format version: found 0, allowed 1");
  CHECK_REFUSED(m.header().header_bytes = 512, Fault::checkpoint, "header bytes: found 512, allowed 4096");
  CHECK_REFUSED(m.header().flags = 2, Fault::checkpoint, "flags: found 2, allowed 0");
  CHECK_REFUSED(m.header().zero[7] = 1, Fault::checkpoint, "reserved bytes of the header are used. Update flexgen");
  CHECK_REFUSED(m.header().alignment = 3, Fault::checkpoint, "alignment: found 3, allowed 4096, 65536 or 2097152");
  CHECK_REFUSED(m.header().alignment = 65536, Fault::checkpoint,
                "tensor 'layers.0.attn.norm.weight': 128 bytes from byte 65,536 of the records on go beyond the 49,152 bytes there are");
  CHECK_REFUSED(m.header().file_bytes += 4096, Fault::damaged, "has 49,152 bytes, its header says 53,248: truncated");
  CHECK_REFUSED(m.bytes() += std::string(4096, '\0'), Fault::damaged, "has 53,248 bytes, its header says 49,152: something was appended");
  CHECK_REFUSED(m.header().json.offset = 8192, Fault::checkpoint, "JSON description offset: found 8192, allowed 4096");
  CHECK_REFUSED(m.header().json.bytes = UINT64_MAX, Fault::checkpoint,
                "JSON description: found 18,446,744,073,709,551,615 bytes, allowed 67,108,864");
  CHECK_REFUSED(m.header().json.bytes = 50000, Fault::checkpoint, "JSON description: 50000 bytes at offset 4096 go beyond the file's 49152 bytes");
  CHECK_REFUSED(m.header().index.bytes += 128, Fault::checkpoint, "tensor index bytes: found 1408, allowed 1280");
  CHECK_REFUSED(m.header().n_tensors = UINT32_MAX, Fault::checkpoint, "tensor index bytes: found 1280, allowed 549755814144");
  CHECK_REFUSED(m.header().n_blocks = UINT64_MAX / 4, Fault::checkpoint, "4,611,686,018,427,387,903 blocks do not fit into 49,152 bytes");
  CHECK_REFUSED(m.header().n_blocks += 1, Fault::checkpoint, "hash table bytes: found 64, allowed 72");
  CHECK_REFUSED((m.header().n_blocks += 1, m.header().table.bytes += 8), Fault::checkpoint, "number of blocks: found 9, allowed 8");
  CHECK_REFUSED(m.header().records_offset += 4096, Fault::checkpoint, "offset of the records: found 20480, allowed 16384");
}

TEST_CASE("an index that cannot be is refused", "[format]") {
  CHECK_REFUSED(m.tensor(0).layout = 9, Fault::checkpoint, "tensor 'embed.tokens': layout: found 9, allowed 0 (row-major). Update flexgen");
  CHECK_REFUSED(m.tensor(0).dtype = 3, Fault::checkpoint, "tensor 'embed.tokens': number format: found 3, allowed 0 (f32), 1 (f16) or 2 (bf16)");
  CHECK_REFUSED(m.tensor(0).rank = 3, Fault::checkpoint, "tensor 'embed.tokens': rank: found 3, allowed 1 or 2");
  CHECK_REFUSED(m.tensor(2).dims[1] = 5, Fault::checkpoint, "tensor 'layers.0.attn.norm.weight': second dimension of a vector: found 5, allowed 0");
  CHECK_REFUSED(m.tensor(0).record = 1, Fault::checkpoint, "tensor 'embed.tokens': record: found 1, allowed 0");
  CHECK_REFUSED(m.tensor(0).dims[0] = 0, Fault::checkpoint, "tensor 'embed.tokens': found shape [0, 32], allowed dimensions of at least 1");
  CHECK_REFUSED(m.tensor(0).dims[0] = UINT64_MAX, Fault::checkpoint,
                "tensor 'embed.tokens': size: found 18446744073709551615, allowed less than 2^63");
  CHECK_REFUSED(m.tensor(0).dims[0] = uint64_t{1} << 40, Fault::checkpoint,
                "tensor 'embed.tokens': 17179869184 blocks after 0 others are more than the 8 there are");
  CHECK_REFUSED(m.tensor(2).dims[0] = INT64_MAX, Fault::checkpoint, "tensor 'layers.0.attn.norm.weight': 9223372036854775807 x 4 overflows 64 bits");
  CHECK_REFUSED(m.tensor(0).dims[1] = 1 << 20, Fault::checkpoint,
                "tensor 'embed.tokens': 2,097,152 bytes from byte 0 of the records on go beyond the 49,152 bytes there are");
  CHECK_REFUSED(m.tensor(0).rows_per_block = 0, Fault::checkpoint, "tensor 'embed.tokens': found 0 rows per block, allowed 1 to 70");
  CHECK_REFUSED(m.tensor(0).rows_per_block = 71, Fault::checkpoint, "tensor 'embed.tokens': found 71 rows per block, allowed 1 to 70");
  CHECK_REFUSED(m.tensor(2).rows_per_block = 1, Fault::checkpoint, "tensor 'layers.0.attn.norm.weight': a vector has 1 rows per block, allowed 0");
  CHECK_REFUSED(m.tensor(0).offset += 256, Fault::checkpoint, "tensor 'embed.tokens': offset: found 16640, allowed 16384");
  CHECK_REFUSED(m.tensor(1).offset = m.tensor(0).offset, Fault::checkpoint, "tensor 'embed.positions': offset: found 16384, allowed 24576");
  CHECK_REFUSED(m.tensor(0).bytes = 4480, Fault::checkpoint, "tensor 'embed.tokens': bytes: found 4480, allowed 8192");
  CHECK_REFUSED(m.tensor(1).first_block = 0, Fault::checkpoint, "tensor 'embed.positions': first block: found 0, allowed 2");
  CHECK_REFUSED(set_name(m.tensor(1).name, "embed.tokens"), Fault::checkpoint, "tensor 'embed.tokens' is listed twice");
  CHECK_REFUSED(set_name(m.tensor(0).name, "a\x1b[31m"), Fault::checkpoint,
                "tensor name: found 'a\\x1b[31m', allowed 1 to 63 of a-z, 0-9, '.' and '_'");
  CHECK_REFUSED(set_name(m.tensor(0).name, ""), Fault::checkpoint, "tensor name: found '', allowed");
  CHECK_REFUSED(m.tensor(0).name.fill('a'), Fault::checkpoint, "name field: found 'aaaa");
  CHECK_REFUSED(m.tensor(0).name[40] = 'x', Fault::checkpoint, "name field: found 'embed.tokens\\x00");
  CHECK_REFUSED(m.record(0).offset = 0, Fault::checkpoint, "record 'embed': offset: found 0, allowed 16384");
  CHECK_REFUSED(m.record(0).bytes += 1, Fault::checkpoint, "record 'embed': bytes: found 12289, allowed 12288");
  CHECK_REFUSED(m.record(1).first_block = 0, Fault::checkpoint, "record 'layers.0.attn': first block: found 0, allowed 3");
  CHECK_REFUSED(m.record(1).n_blocks = 1, Fault::checkpoint, "record 'layers.0.attn': blocks: found 1, allowed 4");
  CHECK_REFUSED(m.record(1).first_tensor = 3, Fault::checkpoint, "record 'layers.0.attn': first tensor: found 3, allowed 2");
  CHECK_REFUSED(m.record(0).zero[0] = 1, Fault::checkpoint, "record 'embed': reserved byte: found 1, allowed 0");
  CHECK_REFUSED(m.record(0).n_tensors = 0, Fault::checkpoint, "record 'embed' has no tensors");
  CHECK_REFUSED(m.record(2).n_tensors = 7, Fault::checkpoint, "record 'head': 7 tensors after 6 others are more than the 7 there are");
  CHECK_REFUSED(m.record(2).n_tensors = 0, Fault::checkpoint, "1 tensors belong to no record");
  CHECK_REFUSED(std::swap(m.tensor(3), m.tensor(4)), Fault::checkpoint,
                "tensor 'layers.0.attn.norm.bias': a vector follows a matrix; vectors come first in their record");
}

TEST_CASE("a description that cannot be is refused", "[format]") {
  CHECK_REFUSED(m.set_json("{"), Fault::checkpoint, "JSON description: invalid JSON at byte 1");
  CHECK_REFUSED(m.set_json("[]"), Fault::checkpoint, "JSON description: found no object");
  CHECK_REFUSED(m.set_json("{}"), Fault::checkpoint, "JSON description: 'model' must be an object");
  CHECK_REFUSED(m.set_json(R"({"model":[]})"), Fault::checkpoint, "JSON description: 'model' must be an object");
  CHECK_REFUSED(m.set_json(R"({"model":{},"generation":1})"), Fault::checkpoint, "JSON description: 'generation' must be an object");
  CHECK_REFUSED(m.set_json(R"({"model":{},"tokenizer":{"vocab.json":[]}})"), Fault::checkpoint,
                "JSON description: tokenizer file 'vocab.json' must be text");
  CHECK_REFUSED(m.set_json(R"({"model":{},"model":{}})"), Fault::checkpoint, "JSON description: key 'model' is given twice");
}
