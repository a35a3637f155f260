// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/verify_file.h"

#include "support/errors.h"
#include "support/model_image.h"
#include "support/small_model.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::ModelImage;
using testing::TempDir;

namespace {

std::string image_of(uint64_t alignment, std::vector<PlannedRecord> records) {
  const TempDir dir;
  testing::write_small_model(dir / "m.flex", testing::kSmallModelJson, alignment, std::move(records));
  return read_text_file(dir / "m.flex");
}

std::vector<std::string> damage_in(const std::string& bytes) { return find_damage(ModelImage(bytes).open(), {.workers = 1}); }

}  // namespace

TEST_CASE("every flipped bit and every other length of a file is noticed", "[format]") {
  std::string bytes = image_of(4096, {{"r", {{"r.vector", DType::f32, {8}}, {"r.matrix", DType::f16, {40, 64}}}}});
  REQUIRE(bytes.size() <= 65536);
  REQUIRE(damage_in(bytes).empty());
  const uint64_t records_offset = ModelImage(bytes).header().records_offset;

  const File file = testing::memory_file(bytes, "m.flex");
  const auto open = [&] { return ModelFile::open(File(Fd(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0)), "m.flex", bytes.size())); };
  size_t missed = 0, tried = 0;
  constexpr size_t kStep = FLEXGEN_SANITIZED ? 7 : 1;  // coprime to 8: every position in a byte comes up
  for (uint64_t bit = 0; bit < 8 * bytes.size(); bit += kStep, ++tried) {
    const std::byte good = static_cast<std::byte>(bytes[bit / 8]), bad = good ^ std::byte{1} << static_cast<int>(bit % 8);
    file.write(bit / 8, std::span(&bad, 1));
    try {
      const ModelFile m = open();
      // past the sections opening cannot see it, and must not need to
      const bool noticed = bit / 8 >= records_offset && !find_damage(m, {.workers = 1}).empty();
      missed += !noticed;
    } catch (const Error& e) {
      missed += (e.fault() != Fault::damaged && bit / 8 >= 8) || bit / 8 >= records_offset;  // of the magic: not a model file
    }
    file.write(bit / 8, std::span(&good, 1));
  }
  CHECK(missed == 0);
  CHECK(tried * kStep >= 8 * bytes.size());
  REQUIRE(find_damage(open(), {.workers = 1}).empty());

  missed = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    try {
      (void)ModelFile::open(File(Fd(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0)), "m.flex", size));  // reads past size would succeed
      ++missed;
    } catch (const Error&) {}
  }
  CHECK(missed == 0);
  for (const size_t more : {1, 512, 4096, 65536})
    CHECK_FAULT(ModelImage(bytes + std::string(more, '\0')).open(), Fault::damaged, "something was appended");
}

TEST_CASE("padding between records is held against zero", "[format]") {
  std::string bytes = image_of(65536, testing::small_model_records());
  CHECK(damage_in(bytes).empty());
  const ModelFile m = ModelImage(bytes).open();
  const auto gaps = m.gaps();
  REQUIRE(gaps.size() == 4);
  uint64_t covered = 0;
  for (const auto& [offset, size] : gaps) {
    covered += size;
    for (const uint64_t at : {offset, offset + size / 2, offset + size - 1}) {
      bytes[at] = 64;
      const auto damage = damage_in(bytes);
      REQUIRE(damage.size() == 1);
      CHECK(damage[0] == fmt::format("m.flex: padding damaged: byte {} of the file: found 0x40, expected 0. Copy or convert it again", at));
      bytes[at] = 0;
    }
  }
  for (const FileBlock& b : m.blocks()) covered += b.bytes;
  CHECK(covered + 4 * 4096 == bytes.size());  // header, JSON, index, table: every byte belongs to something
}

TEST_CASE("all damage is listed in file order, by any number of threads", "[format]") {
  std::string bytes = image_of(4096, testing::small_model_records());
  const ModelFile good = ModelImage(bytes).open();
  for (const size_t block : {7, 0, 3}) bytes[good.blocks()[block].offset + 5] ^= 1;
  const ModelFile m = ModelImage(bytes).open();
  std::atomic<uint64_t> done{0};
  const auto damage = find_damage(m, {.workers = 3, .done_bytes = &done});
  REQUIRE(damage.size() == 3);
  CHECK_THAT(damage[0], Catch::Contains("tensor 'embed.tokens', rows 0 to 63, block 0,"));
  CHECK_THAT(damage[1], Catch::Contains("vectors of record 'layers.0.attn', block 3,"));
  CHECK_THAT(damage[2], Catch::Contains("tensor 'layers.0.attn.out.weight', rows 0 to 31, block 6,") || Catch::Contains("block 7"));
  CHECK(done == bytes.size());
  const std::atomic<bool> stop{true};
  CHECK_FAULT(find_damage(m, {.stop = &stop}), Fault::interrupted, "m.flex: interrupted before all of it was verified");
}
