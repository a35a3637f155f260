// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/conversion.h"

#include <filesystem>
#include <limits>

#include "flexgen/format/crc32.h"
#include "flexgen/format/tokenizer_files.h"
#include "flexgen/format/verify_file.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;
namespace fs = std::filesystem;

namespace {

// rows [first, first + rows) of a tensor of the file, dense; of a vector its elements
std::vector<std::byte> rows_of(const ModelFile& m, const FileTensor& t, int64_t first, int64_t rows) {
  const size_t row_bytes = t.is_vector() ? size_of(t.dtype) : t.row_bytes();
  std::vector<std::byte> out(static_cast<size_t>(rows) * row_bytes);
  for (int64_t r = first; r < first + rows; ++r) {
    const uint64_t at = t.is_vector() ? t.offset + static_cast<uint64_t>(r) * row_bytes
                                      : m.blocks()[t.first_block + static_cast<size_t>(r / t.rows_per_block)].offset +
                                            static_cast<uint64_t>(r % t.rows_per_block) * row_bytes;
    m.file().read(at, std::span(out).subspan(static_cast<size_t>(r - first) * row_bytes, row_bytes));
  }
  return out;
}

struct Place {
  std::string tensor;
  int64_t third = -1;  // of qkv
};

// HuggingFace's name -> where it must be; nothing for a tied head
std::optional<Place> place_of(std::string name) {
  for (const char* prefix : {"model.", "decoder."})
    if (name.starts_with(prefix)) name = name.substr(std::strlen(prefix));
  if (name == "embed_tokens.weight") return Place{"embed.tokens"};
  if (name == "embed_positions.weight") return Place{"embed.positions"};
  if (name == "project_in.weight") return Place{"embed.project_in"};
  if (name == "project_out.weight") return Place{"head.project_out"};
  if (name.starts_with("final_layer_norm.")) return Place{"head.norm" + name.substr(16)};
  if (name == "lm_head.weight") return Place{"head.logits"};
  const size_t dot = name.find('.', 7);
  const std::string layer = name.substr(0, dot), rest = name.substr(dot + 1), kind = rest.substr(rest.rfind('.'));
  for (int64_t i = 0; i < 3; ++i)
    if (rest.starts_with(std::string("self_attn.") + "qkv"[i] + "_proj.")) return Place{layer + ".attn.qkv" + kind, i};
  if (rest.starts_with("self_attn.out_proj.")) return Place{layer + ".attn.out" + kind};
  if (rest.starts_with("self_attn_layer_norm.")) return Place{layer + ".attn.norm" + kind};
  if (rest.starts_with("final_layer_norm.")) return Place{layer + ".mlp.norm" + kind};
  return Place{layer + ".mlp." + rest};
}

void convert(const std::string& folder, const std::string& output, std::optional<DType> dtype = {}, int workers = 3) {
  Conversion c(folder, read_tokenizer_files(folder), dtype, "flexgen test");
  std::atomic<uint64_t> done{0};
  CHECK(c.write(output, {.file_id = 5, .overwrite = true, .workers = workers, .done_bytes = &done}).empty());
  CHECK(done == c.total_bytes());
}

// a copy that can be changed
void copy_checkpoint(const std::string& from, const testing::TempDir& dir) {
  for (const auto& f : fs::directory_iterator(from)) {
    fs::copy_file(f.path(), dir / f.path().filename().string());
    fs::permissions(dir / f.path().filename().string(), fs::perms::owner_write, fs::perm_options::add);
  }
}

}  // namespace

TEST_CASE("every golden checkpoint converts to the tensors that an independent reader finds", "[model]") {
  const auto independent = nlohmann::json::parse(read_text_file(testing::test_data("golden/tensors.json")));
  const testing::TempDir dir;
  size_t converted = 0;
  for (const auto& [name, tensors] : independent.items()) {
    std::string folder = testing::test_data(name == "tiny-opt" ? name : "golden/" + name);
    if (!fs::exists(folder)) {
      const auto shared = testing::shared_data("golden/opt/" + name);
      if (!shared) continue;
      folder = *shared;
    }
    INFO(name);
    ++converted;
    convert(folder, dir / "m.flex");
    const ModelFile m = ModelFile::open(dir / "m.flex");
    CHECK(find_damage(m).empty());
    const ModelDescription model = stored_description(m);
    std::map<std::string, std::string> carried = m.description().at("tokenizer");
    CHECK(carried == read_tokenizer_files(folder));
    CHECK_FALSE(carried.empty());
    CHECK(m.description().at("generation").at("eos_token_id") == 2);
    size_t compared = 0;
    for (const auto& [stored, facts] : tensors.items()) {
      INFO(stored);
      const auto place = place_of(stored);
      REQUIRE(place.has_value());
      if (place->tensor == "head.logits" && model.tied_head) continue;
      const FileTensor* t = m.find(place->tensor);
      REQUIRE(t != nullptr);
      CHECK(flexgen::name(t->dtype) == facts[0].get<std::string>());
      const int64_t rows = facts[1][0];
      CHECK(t->shape[0] == (place->third < 0 ? rows : 3 * rows));
      if (!t->is_vector()) CHECK(t->shape[1] == facts[1][1].get<int64_t>());
      CHECK(crc32(rows_of(m, *t, std::max<int64_t>(place->third, 0) * rows, rows)) == facts[2].get<uint32_t>());
      ++compared;
    }
    size_t parts = 0;
    for (const FileTensor& t : m.tensors()) parts += t.name.find(".qkv.") != std::string::npos ? 3 : 1;
    CHECK(compared == parts);  // nothing in the file comes from elsewhere
  }
  CHECK(converted >= 3);
}

TEST_CASE("--dtype rounds every value to nearest even", "[model]") {
  const testing::TempDir dir;
  const std::string folder = testing::test_data("golden/head128-bf16-sharded");
  convert(folder, dir / "bf16.flex");
  const ModelFile source = ModelFile::open(dir / "bf16.flex");
  const DType to = GENERATE(DType::f32, DType::f16, DType::bf16);
  convert(folder, dir / "m.flex", to, 1);
  const ModelFile m = ModelFile::open(dir / "m.flex");
  for (const FileTensor& t : m.tensors()) {
    INFO(t.name);
    CHECK(t.dtype == to);
    const auto want = rows_of(source, *source.find(t.name), 0, t.shape[0]), got = rows_of(m, t, 0, t.shape[0]);
    size_t wrong = 0;
    for (size_t i = 0; i < got.size() / size_of(to); ++i) {
      std::byte rounded[4];
      store_element(to, rounded, 0, load_element(DType::bf16, want.data(), i));
      wrong += std::memcmp(rounded, got.data() + i * size_of(to), size_of(to)) != 0;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("the same checkpoint makes the same file, with any number of workers", "[model]") {
  const testing::TempDir dir;
  const std::string folder = testing::test_data("golden/postnorm-proj-f16");
  convert(folder, dir / "a.flex", {}, 1);
  convert(folder, dir / "b.flex", {}, 7);
  CHECK(read_text_file(dir / "a.flex") == read_text_file(dir / "b.flex"));
}

TEST_CASE("values that are not finite are told, and so are those that become it", "[model]") {
  const testing::TempDir dir;
  copy_checkpoint(testing::test_data("golden/head128-bf16-sharded"), dir);
  const Checkpoint c = Checkpoint::open(dir.path());
  const StoredTensor* fc1 = c.find("model.decoder.layers.0.fc1.weight");
  REQUIRE(fc1 != nullptr);
  {
    const File file(Fd(::open(c.path(*fc1).c_str(), O_WRONLY)), c.path(*fc1), 0);
    const uint16_t values[]{0x7F80, 0xFFC0, to_bf16(1e30f).bits};  // infinity, NaN, far beyond f16
    file.write(fc1->offset + 2000, std::as_bytes(std::span(values)));
  }
  Conversion kept(dir.path(), {}, {}, "test");
  const auto as_stored = kept.write(dir / "m.flex", {.workers = 2});
  REQUIRE(as_stored.size() == 1);
  CHECK(as_stored[0].name == "layers.0.mlp.fc1.weight");
  CHECK(as_stored[0].not_finite == 2);
  CHECK(as_stored[0].overflowed == 0);
  Conversion rounded(dir.path(), {}, DType::f16, "test");
  const auto as_f16 = rounded.write(dir / "m.flex", {.overwrite = true});
  REQUIRE(as_f16.size() == 1);
  CHECK(as_f16[0].not_finite == 2);
  CHECK(as_f16[0].overflowed == 1);
}

TEST_CASE("a damaged storage of a PyTorch archive is noticed, and nothing appears", "[model]") {
  const testing::TempDir dir;
  copy_checkpoint(testing::test_data("golden/prenorm-f16-bin"), dir);
  const Checkpoint c = Checkpoint::open(dir.path());
  const StoredTensor* fc2 = c.find("model.decoder.layers.1.fc2.weight");
  REQUIRE(fc2 != nullptr);
  REQUIRE(fc2->crc32.has_value());
  std::byte b;
  const File file(Fd(::open(c.path(*fc2).c_str(), O_RDWR)), c.path(*fc2), 0);
  file.read(fc2->offset + 777, std::span(&b, 1));
  b ^= std::byte{1};
  file.write(fc2->offset + 777, std::span(&b, 1));
  for (const auto dtype : {std::optional<DType>{}, std::optional{DType::f32}}) {
    Conversion damaged(dir.path(), {}, dtype, "test");
    CHECK_FAULT(damaged.write(dir / "m.flex", {}), Fault::damaged,
                "pytorch_model.bin: tensor 'model.decoder.layers.1.fc2.weight' is damaged: found CRC ");
    CHECK_FALSE(fs::exists(dir / "m.flex"));
  }
}

TEST_CASE("a folder that cannot be converted says why", "[model]") {
  const testing::TempDir dir;
  const auto open = [&](const std::string& folder, const std::map<std::string, std::string>& tokenizer = {}) {
    return Conversion(folder, tokenizer, {}, "test").total_bytes();
  };
  CHECK_FAULT(open(dir / "none"), Fault::io, "none: the folder does not exist or may not be read");
  CHECK_FAULT(open(dir.write("file", "x")), Fault::usage, "file: found a file, allowed a HuggingFace folder with config.json and weights");
  CHECK_FAULT(open(dir.path()), Fault::checkpoint, ": config.json is missing. Give the HuggingFace folder that holds config.json and weights");
  copy_checkpoint(testing::test_data("golden/prenorm-f16-bin"), dir);
  CHECK_FAULT(open(dir.path(), {{"vocab.json", "\xFF"}}), Fault::checkpoint, "/vocab.json: found text that is not UTF-8. Download it again");
  CHECK_FAULT(open(dir.path(), {{"merges.txt", std::string(65 << 20, 'x')}}), Fault::checkpoint, "tokenizer and description: found 68,");
  dir.write("generation_config.json", "[1]");
  CHECK_FAULT(open(dir.path()), Fault::checkpoint, "generation_config.json: found a list, allowed an object");
  fs::remove(dir / "generation_config.json");
  CHECK(open(dir.path()) > 0);

  Conversion c(dir.path(), {}, {}, "test");
  const std::atomic<bool> stop{true};
  CHECK_FAULT(c.write(dir / "m.flex", {.stop = &stop}), Fault::interrupted, "m.flex: interrupted; nothing was written");
  CHECK_FALSE(fs::exists(dir / "m.flex"));
  CHECK_FALSE(fs::exists(dir / ".m.flex.partial"));
}
