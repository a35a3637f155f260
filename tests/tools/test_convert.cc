// SPDX-License-Identifier: Apache-2.0
// convert, inspect and synth as a user runs them.
#include <fcntl.h>
#include <sys/file.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "flexgen/format/model_file.h"
#include "flexgen/format/verify_file.h"
#include "support/catch.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::run_flexgen;
using testing::TempDir;
namespace fs = std::filesystem;

namespace {

const std::string kCheckpoint = testing::test_data("golden/prenorm-f16-bin");

void check_fails(const testing::RunResult& r, int exit, const std::string& message) {
  CHECK(r.exit == exit);
  CHECK_THAT(r.err, Catch::Contains(message));
  CHECK(r.out.empty());
}

size_t files_in(const std::string& folder) { return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

}  // namespace

TEST_CASE("convert makes a file that inspect describes and verifies", "[tools]") {
  const TempDir dir;
  const std::string out = dir / "m.flex";
  const auto converted = run_flexgen({"convert", kCheckpoint, "-o", out});
  CHECK(converted.exit == 0);
  CHECK_THAT(converted.out, Catch::StartsWith(out + ": "));
  CHECK(files_in(dir.path()) == 1);

  const auto shown = run_flexgen({"inspect", out, "--verify", "--tensors"});
  CHECK(shown.exit == 0);
  for (const char* text : {"opt, 3 layers", "f16", "merges.txt", "vocab.json", "flexgen 0.1.0", "made from     prenorm-f16-bin",
                           "layers.1.attn.qkv.weight", "verified      every byte"})
    CHECK_THAT(shown.out, Catch::Contains(text));

  const auto as_json = nlohmann::json::parse(run_flexgen({"inspect", out, "--verify", "--tensors", "--json"}).out);
  const ModelFile m = ModelFile::open(out);
  CHECK(as_json.at("file_bytes") == fs::file_size(out));
  CHECK(as_json.at("tensors").size() == m.tensors().size());
  CHECK(as_json.at("verify").at("damage").empty());
  CHECK(as_json.at("model") == m.description().at("model"));
  CHECK(as_json.at("provenance").at("folder") == "prenorm-f16-bin");
  CHECK(as_json.at("parameters").get<uint64_t>() > 100'000);

  check_fails(run_flexgen({"convert", kCheckpoint, "-o", out}), 2, "error[E-usage]: " + out + ": exists already. Use --overwrite to replace it");
  const auto again = run_flexgen({"convert", kCheckpoint, "-o", out, "--overwrite", "--dtype", "f32", "--json"});
  CHECK(again.exit == 0);
  const auto result = nlohmann::json::parse(again.out);
  CHECK(result.at("file") == out);
  CHECK(result.at("file_bytes") == fs::file_size(out));
  CHECK(result.at("weight_bytes") == ModelFile::open(out).weight_bytes());
  CHECK(result.at("warnings").empty());
  CHECK(ModelFile::open(out).tensors()[0].dtype == DType::f32);

  // without -o: the folder's name, here
  CHECK(run_flexgen({"convert", kCheckpoint + "/"}, {.folder = dir.path()}).exit == 0);
  CHECK(fs::exists(dir / "prenorm-f16-bin.flex"));
}

TEST_CASE("what cannot be converted or inspected says why, with its exit code", "[tools]") {
  const TempDir dir;
  const std::string out = dir / "m.flex";
  check_fails(run_flexgen({"convert"}), 2, "error[E-usage]: SRC is required");
  check_fails(run_flexgen({"convert", kCheckpoint, "-o", out, "--dtype", "q4"}), 2, "error[E-usage]: --dtype: found 'q4', allowed f32, f16 or bf16");
  check_fails(run_flexgen({"convert", dir / "none", "-o", out}), 4, "none: the folder does not exist or may not be read");
  check_fails(run_flexgen({"convert", kCheckpoint + "/config.json", "-o", out}), 2, "config.json: found a file, allowed a HuggingFace folder");
  check_fails(run_flexgen({"convert", dir.path(), "-o", out}), 3, "error[E-checkpoint]: " + dir.path() + ": config.json is missing");
  check_fails(run_flexgen({"convert", kCheckpoint, "-o", dir.path()}), 2, "is a folder; the output is one file");
  check_fails(run_flexgen({"convert", kCheckpoint, "-o", dir / "no/m.flex"}), 4, "cannot be written: No such file or directory");
  check_fails(run_flexgen({"inspect", dir / "none"}), 4, "none: cannot be opened: No such file or directory");
  check_fails(run_flexgen({"inspect", dir.path()}), 3, "is a folder; a regular file is needed");
  check_fails(run_flexgen({"inspect", kCheckpoint + "/pytorch_model.bin"}), 3,
              "is not a flexgen model file: found a zip archive, perhaps a PyTorch checkpoint");
  check_fails(run_flexgen({"synth", "--like", "opt-7b", "-o", out}), 2,
              "--like: found 'opt-7b', allowed the path of a config.json, or one of opt-125m, opt-350m,");
  check_fails(run_flexgen({"synth", "--like", "opt-125m", "-o", out, "--layers", "-1"}), 2, "--layers: found -1, allowed 1 to 10000");
  check_fails(run_flexgen({"synth", "--like", "opt-125m", "-o", out, "--as", "gguf"}), 2, "--as: found 'gguf', allowed flex, safetensors or bin");
  check_fails(run_flexgen({"synth", "--like", "opt-125m", "-o", out, "--tokenizer", dir.path()}), 2, "found no vocabulary there");
  check_fails(run_flexgen({"synth", "--like", "opt-175b", "-o", out, "--dtype", "f32", "--layers", "2000"}), 5,
              " are needed. Free some, or write to another disk");
  CHECK(files_in(dir.path()) == 0);
}

TEST_CASE("inspect names damage and exits with 7", "[tools]") {
  const TempDir dir;
  const std::string out = dir / "m.flex";
  REQUIRE(run_flexgen({"convert", kCheckpoint, "-o", out}).exit == 0);
  std::string bytes = read_text_file(out);
  const ModelFile good = ModelFile::open(out);
  const FileTensor* fc1 = good.find("layers.1.mlp.fc1.weight");
  REQUIRE(fc1 != nullptr);
  bytes[fc1->offset + 17] ^= 8;
  dir.write("bad.flex", bytes);
  CHECK(run_flexgen({"inspect", dir / "bad.flex"}).exit == 0);  // not read without --verify
  const auto verified = run_flexgen({"inspect", dir / "bad.flex", "--verify"});
  CHECK(verified.exit == 7);
  CHECK_THAT(verified.err,
             Catch::Contains(fmt::format("error[E-damaged]: {}: weights damaged: tensor 'layers.1.mlp.fc1.weight', rows 0 to ", dir / "bad.flex")) &&
                 Catch::Contains(fmt::format("block {}, bytes {} to", fc1->first_block, fc1->offset)));
  const auto as_json = run_flexgen({"inspect", dir / "bad.flex", "--verify", "--json"});
  CHECK(as_json.exit == 7);
  CHECK(nlohmann::json::parse(as_json.out).at("verify").at("damage").size() == 1);

  bytes[20] ^= 1;
  check_fails(run_flexgen({"inspect", dir.write("header.flex", bytes)}), 7, "header.flex: header is damaged: found hash");
  check_fails(run_flexgen({"inspect", dir.write("cut.flex", read_text_file(out).substr(0, 70'000))}), 7, "truncated. Copy or convert it again");
}

TEST_CASE("synth and convert of its folders give the same weights", "[tools]") {
  const TempDir dir;
  const std::string like = testing::test_data("golden/postnorm-proj-f16/config.json"), tokenizer = testing::test_data("golden/postnorm-proj-f16");
  const std::string dtype = GENERATE("f16", "bf16");
  REQUIRE(run_flexgen({"synth", "--like", like, "-o", dir / "direct.flex", "--dtype", dtype, "--seed", "9", "--tokenizer", tokenizer}).exit == 0);
  const ModelFile direct = ModelFile::open(dir / "direct.flex");
  for (const std::string as : {"safetensors", "bin"}) {
    INFO(as);
    REQUIRE(run_flexgen({"synth", "--like", like, "-o", dir / as, "--as", as, "--dtype", dtype, "--seed", "9", "--tokenizer", tokenizer}).exit == 0);
    REQUIRE(run_flexgen({"convert", dir / as, "-o", dir / (as + ".flex")}).exit == 0);
    const ModelFile converted = ModelFile::open(dir / (as + ".flex"));
    CHECK(converted.description().at("model") == direct.description().at("model"));
    CHECK(converted.description().at("tokenizer") == direct.description().at("tokenizer"));
    REQUIRE(converted.blocks().size() == direct.blocks().size());
    for (size_t i = 0; i < direct.blocks().size(); ++i) {
      std::vector<std::byte> a(direct.blocks()[i].bytes), b(converted.blocks()[i].bytes);
      direct.file().read(direct.blocks()[i].offset, a);
      converted.file().read(converted.blocks()[i].offset, b);
      REQUIRE(a == b);
    }
  }
  REQUIRE(run_flexgen({"synth", "--like", like, "-o", dir / "other.flex", "--dtype", dtype, "--seed", "10"}).exit == 0);
  CHECK(ModelFile::open(dir / "other.flex").blocks()[0].hash != direct.blocks()[0].hash);
}

TEST_CASE("killed at any moment, nothing or a whole file has the name, and the next run cleans up", "[tools]") {
  const TempDir dir;
  REQUIRE(run_flexgen({"synth", "--like", "opt-125m", "--layers", "1", "-o", dir / "source", "--as", "safetensors"}).exit == 0);
  fs::create_directory(dir / "out");
  const std::string out = dir / "out/m.flex";
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_flexgen({"convert", dir / "source", "-o", out}).exit == 0);
  const double whole_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const auto whole_bytes = fs::file_size(out);
  fs::remove(out);
  int killed = 0, left = 0;
  constexpr int kKills = FLEXGEN_SANITIZED ? 6 : 24;
  for (int i = 0; i < kKills; ++i) {
    const auto r =
        run_flexgen({"convert", dir / "source", "-o", out}, {.signal = SIGKILL, .signal_after_ms = static_cast<int>(whole_ms * 1.1 * i / kKills)});
    killed += r.exit == 128 + SIGKILL;
    left += fs::exists(dir / "out/.m.flex.partial");
    if (fs::exists(out)) {
      const ModelFile m = ModelFile::open(out);
      CHECK(m.file().size() == whole_bytes);
      CHECK(find_damage(m).empty());
      CHECK_FALSE(fs::exists(dir / "out/.m.flex.partial"));
      fs::remove(out);
    } else {
      CHECK((r.exit == 128 + SIGKILL));
    }
  }
  CHECK(killed > 0);
  CHECK(left > 0);
  REQUIRE(run_flexgen({"convert", dir / "source", "-o", out}).exit == 0);
  CHECK(files_in(dir / "out") == 1);
}

TEST_CASE("an interrupt leaves nothing and exits with 130; a locked output exits with 8", "[tools]") {
  const TempDir dir;
  REQUIRE(run_flexgen({"synth", "--like", "opt-1.3b", "--layers", "2", "-o", dir / "source", "--as", "safetensors"}).exit == 0);
  fs::create_directory(dir / "out");
  const std::string out = dir / "out/m.flex";
  int interrupted = 0;
  for (int ms = 20; ms < 2000 && interrupted == 0; ms += 20) {
    const auto r = run_flexgen({"convert", dir / "source", "-o", out, "--overwrite"}, {.signal = SIGINT, .signal_after_ms = ms});
    if (r.exit != 130 || r.err.empty()) continue;  // done already, or not yet begun: the signal came before its handler
    ++interrupted;
    CHECK_THAT(r.err, Catch::Contains("error[E-interrupted]: " + out + ": interrupted; nothing was written"));
    CHECK_FALSE(fs::exists(dir / "out/.m.flex.partial"));
  }
  CHECK(interrupted == 1);

  const std::string temporary = dir.write("out/.m.flex.partial", "");
  const Fd held(::open(temporary.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(held.get(), LOCK_EX) == 0);
  check_fails(run_flexgen({"convert", dir / "source", "-o", out, "--overwrite"}), 8,
              "error[E-locked]: " + out + ": is being written by another process, which holds " + temporary);
}
