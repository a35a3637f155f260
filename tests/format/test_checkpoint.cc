// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/checkpoint.h"

#include <sys/stat.h>

#include <filesystem>

#include "flexgen/format/crc32.h"
#include "flexgen/format/row_reader.h"
#include "support/errors.h"
#include "support/safetensors_writer.h"
#include "support/temp_dir.h"
#include "support/torch_writer.h"

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
  for (const char* name : {"prenorm-f16-bin", "postnorm-proj-f16", "head128-bf16-sharded"})
    check_tensors(testing::test_data(std::string("golden/") + name), name);
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

namespace {

using namespace flexgen::testing;

// one f16 vector w [4] in each format
std::string safetensors_w(const std::string& name) {
  return safetensors_file(fmt::format(R"({{"{}":{{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}}})", name), "12345678");
}
std::string torch_w(const std::string& name) {
  using namespace testing::pickle;
  return zip_bin(whole(dict({{name, tensor(storage("HalfStorage", "0", 4), 0, {4}, {1})}})), {{"0", "12345678"}});
}

}  // namespace

TEST_CASE("the file that transformers would load is loaded", "[format]") {
  TempDir dir;
  const auto loaded = [&] { return Checkpoint::open(dir.path()).tensors()[0].name; };
  dir.write("pytorch_model.bin.index.json", R"({"weight_map": {"from bin index": "shard.bin"}})");
  dir.write("shard.bin", torch_w("from bin index"));
  CHECK(loaded() == "from bin index");
  dir.write("pytorch_model.bin", torch_w("from bin"));
  CHECK(loaded() == "from bin");
  dir.write("model.safetensors.index.json", R"({"weight_map": {"from safetensors index": "shard.safetensors"}})");
  dir.write("shard.safetensors", safetensors_w("from safetensors index"));
  CHECK(loaded() == "from safetensors index");
  dir.write("model.safetensors", safetensors_w("from safetensors"));
  CHECK(loaded() == "from safetensors");
  CHECK(Checkpoint::open_file(dir / "pytorch_model.bin").tensors()[0].name == "from bin");
}

TEST_CASE("tensors are found by name; a linked shard is followed", "[format]") {
  TempDir dir, elsewhere;
  // the layout of the hub's cache: plain names that link to blobs
  std::filesystem::create_symlink(elsewhere.write("blob", safetensors_w("a")), dir / "one.safetensors");
  dir.write("two.safetensors", safetensors_w("b"));
  dir.write("model.safetensors.index.json", R"({"metadata": {"total_size": 16}, "weight_map": {"b": "two.safetensors", "a": "one.safetensors"}})");
  const Checkpoint c = Checkpoint::open(dir.path());
  REQUIRE(c.tensors().size() == 2);
  REQUIRE(c.n_files() == 2);
  REQUIRE(c.find("a") != nullptr);
  REQUIRE(c.find("b") != nullptr);
  CHECK(c.find("c") == nullptr);
  CHECK(c.path(*c.find("a")) == dir / "one.safetensors");
  CHECK(c.path(*c.find("b")) == dir / "two.safetensors");
  std::string bytes(8, '\0');
  read_rows(c, *c.find("b"), 0, 4, std::as_writable_bytes(std::span(bytes)));
  CHECK(bytes == "12345678");
}

TEST_CASE("a folder without a checkpoint says what is wrong with it", "[format]") {
  TempDir dir;
  CHECK_FAULT(Checkpoint::open(dir / "nowhere"), Fault::io, "/nowhere: the folder does not exist or may not be read");
  CHECK_FAULT(Checkpoint::open(dir.write("file", "x")), Fault::checkpoint, "/file: found a file, allowed a folder with config.json and weights.");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint,
              ": weights: found none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json");
  dir.write("tf_model.h5", "x");
  dir.write("flax_model.msgpack", "x");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint, "pytorch_model.bin.index.json. Found only tf_model.h5, flax_model.msgpack");
  std::filesystem::create_symlink("nothing", dir / "pytorch_model.bin");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::io, "/pytorch_model.bin: cannot be opened: No such file or directory");
  std::filesystem::create_symlink("model.safetensors", dir / "model.safetensors");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::io, "/model.safetensors: cannot be opened: Too many levels of symbolic links");
  std::filesystem::remove(dir / "model.safetensors");
  std::filesystem::create_directory(dir / "model.safetensors");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint, "/model.safetensors: is a folder; a regular file is needed");
  std::filesystem::remove(dir / "model.safetensors");
  REQUIRE(::mkfifo((dir / "model.safetensors").c_str(), 0600) == 0);
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint, "/model.safetensors: is a FIFO; a regular file is needed");
}

TEST_CASE("an index that does not fit its shards is refused", "[format]") {
  struct Case {
    std::string index, message;
  };
  const Case cases[] = {
      {"", "/model.safetensors.index.json: invalid JSON at byte 0"},
      {"[]", "/model.safetensors.index.json: found a list, allowed an object"},
      {"{}", "/model.safetensors.index.json: weight_map: found nothing, allowed an object with a file name for each tensor"},
      {R"({"weight_map": {}})", "/model.safetensors.index.json: weight_map: found no tensors, allowed an object"},
      {R"({"weight_map": [1]})", "/model.safetensors.index.json: weight_map: found a list, allowed an object"},
      {R"({"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}})", "/model.safetensors.index.json: key 'a' is given twice"},
      {R"({"weight_map": {"a": 7}})", "tensor 'a': shard: found 7, allowed a plain file name in the same folder"},
      {R"({"weight_map": {"a": ""}})", "tensor 'a': shard: found \"\", allowed a plain file name"},
      {R"({"weight_map": {"a": ".."}})", "tensor 'a': shard: found \"..\", allowed a plain file name"},
      {R"({"weight_map": {"a": "../a.safetensors"}})", "tensor 'a': shard: found \"../a.safetensors\", allowed a plain file name"},
      {R"({"weight_map": {"a": "/etc/passwd"}})", "tensor 'a': shard: found \"/etc/passwd\", allowed a plain file name"},
      {R"({"weight_map": {"a": "a\\b"}})", "tensor 'a': shard: found \"a\\\\b\", allowed a plain file name"},
      {R"({"weight_map": {"a": "a.safetensors\u0000.bin"}})", "tensor 'a': shard: found \"a.safetensors\\u0000.bin\", allowed a plain file name"},
      {cat(R"({"weight_map": {"a": ")", std::string(256, 'n'), R"("}})"), "allowed a plain file name"},
      {R"({"weight_map": {"a": "c.safetensors", "b": "c.safetensors"}})",
       "/model.safetensors.index.json: shard 'c.safetensors' is missing (named by 2 tensors). Download it"},
      {R"({"weight_map": {"x": "a.safetensors"}})",
       "/model.safetensors.index.json: tensor 'x' is not in shard 'a.safetensors'. The index and the shards"},
      {R"({"weight_map": {"a": "a.safetensors", "b": "a.safetensors", "c": "b.safetensors"}})", "tensor 'b' is not in shard 'a.safetensors' but in "},
      {R"({"weight_map": {"a": "a.safetensors", "b": "again.safetensors"}})", "/again.safetensors: tensor 'a' is also in "},
      {R"({"weight_map": {"a": "page.safetensors"}})", "/page.safetensors: found a web page, allowed weights"},
      {R"({"weight_map": {"a": "folder"}})", "/folder: is a folder; a regular file is needed"},
  };
  TempDir dir;
  dir.write("a.safetensors", safetensors_w("a"));
  dir.write("b.safetensors", safetensors_w("b"));
  dir.write("again.safetensors", safetensors_w("a"));
  dir.write("page.safetensors", "<!doctype html>");
  std::filesystem::create_directory(dir / "folder");
  for (const Case& c : cases) {
    INFO(c.message);
    dir.write("model.safetensors.index.json", c.index);
    CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint, c.message);
  }
  std::string many = R"({"weight_map": {)";
  for (int i = 0; i <= 1000; ++i) many += fmt::format("{}\"{}\": \"shard{}\"", i ? ", " : "", i, i);
  dir.write("model.safetensors.index.json", many + "}}");
  CHECK_FAULT(Checkpoint::open(dir.path()), Fault::checkpoint, "/model.safetensors.index.json: found 1001 shards, allowed 1000");
}
