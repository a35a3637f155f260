// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/checked_tokenizer_files.h"

#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::TempDir;

TEST_CASE("a folder's tokenizer is tried before it is taken along", "[text]") {
  CHECK(checked_tokenizer_files(testing::test_data("tiny-opt")).size() == 4);
  const TempDir dir;
  CHECK(checked_tokenizer_files(dir.path()).empty());
  dir.write("tokenizer_config.json", "{}");
  CHECK(checked_tokenizer_files(dir.path()).empty());
  dir.write("vocab.json", "{\"a\": 0,");
  CHECK_FAULT(checked_tokenizer_files(dir.path()), Fault::checkpoint, "vocab.json without merges.txt");
  dir.write("merges.txt", "#version: 0.2\n");
  CHECK_FAULT(checked_tokenizer_files(dir.path()), Fault::checkpoint, "vocab.json: invalid JSON");
}
