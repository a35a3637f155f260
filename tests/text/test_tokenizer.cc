// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/tokenizer.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/text/stream_decoder.h"
#include "flexgen/format/tokenizer_files.h"
#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;
using testing::shared_data, testing::test_data;

namespace {

Tokenizer open(const std::string& folder) { return Tokenizer::from_files(read_tokenizer_files(folder), folder); }

std::string streamed(const Tokenizer& t, std::span<const int32_t> ids, bool skip_special) {
  StreamDecoder decoder(t, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    REQUIRE(is_utf8(part));
    text += part;
  }
  return text + decoder.finish();
}

// Every line of a file {"text", "ids", "ids_special"} that HuggingFace's tokenizer made; returns how many there were.
size_t check_golden(const Tokenizer& t, const std::string& path) {
  std::ifstream in(path);
  size_t n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const auto want = nlohmann::json::parse(line);
    const auto text = want["text"].get<std::string>();
    const auto ids = want["ids"].get<std::vector<int32_t>>();
    CAPTURE(n, text);
    CHECK(t.encode(text) == ids);
    CHECK(t.encode(text, true) == want["ids_special"].get<std::vector<int32_t>>());
    CHECK(t.decode(std::span(ids).subspan(1), false) == text);
    CHECK(streamed(t, std::span(ids).subspan(1), false) == text);
  }
  return n;
}

}  // namespace

TEST_CASE("ids and text equal HuggingFace's over the real OPT vocabulary", "[text]") {
  const auto folder = shared_data("opt-tokenizer"), golden = shared_data("golden/tokenizer/opt.jsonl");
  if (!folder || !golden) return;
  CHECK(check_golden(open(*folder), *golden) == 690);
}
