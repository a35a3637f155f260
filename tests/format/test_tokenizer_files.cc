// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/tokenizer_files.h"

#include <filesystem>

#include "support/catch.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::TempDir;

TEST_CASE("the tokenizer's files of a folder are read, others are not", "[format]") {
  TempDir dir;
  dir.write("vocab.json", "{}");
  dir.write("merges.txt", "#version\n");
  dir.write("config.json", "{}");
  const auto files = read_tokenizer_files(dir.path());
  CHECK(files == std::map<std::string, std::string>{{"vocab.json", "{}"}, {"merges.txt", "#version\n"}});
  CHECK(read_tokenizer_files(dir / "absent").empty());
}

TEST_CASE("a tokenizer's file that is none is refused", "[format]") {
  TempDir dir;
  std::filesystem::create_directory(dir / "vocab.json");
  CHECK_FAULT(read_tokenizer_files(dir.path()), Fault::checkpoint, "vocab.json: is a folder; a regular file is needed");
  std::filesystem::remove(dir / "vocab.json");
  dir.write("merges.txt", "");
  std::filesystem::resize_file(dir / "merges.txt", (64u << 20) + 1);
  CHECK_FAULT(read_tokenizer_files(dir.path()), Fault::checkpoint, "merges.txt: found 67,108,865 bytes, allowed 67,108,864");
}
