// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/stream_decoder.h"

#include <random>
#include <string>
#include <vector>

#include "flexgen/format/tokenizer_files.h"
#include "support/catch.h"

using namespace flexgen;
using testing::test_data;

namespace {
Tokenizer tiny_opt() { return Tokenizer::from_files(read_tokenizer_files(test_data("tiny-opt")), "tiny-opt"); }
}  // namespace

TEST_CASE("a character is emitted when its last byte comes", "[text]") {
  const Tokenizer t = tiny_opt();
  const auto bytes = t.encode_bare("\xF0\x9F\x99\x82");
  REQUIRE(bytes.size() == 4);  // this vocabulary has no merges for it
  StreamDecoder decoder(t, false);
  for (size_t i = 0; i < 3; ++i) CHECK(decoder.push(bytes[i]).empty());
  CHECK(decoder.push(bytes[3]) == "\xF0\x9F\x99\x82");
  CHECK(decoder.finish().empty());
}

TEST_CASE("an unfinished character becomes U+FFFD at the end, once", "[text]") {
  const Tokenizer t = tiny_opt();
  const auto bytes = t.encode_bare("\xF0\x9F\x99\x82");
  StreamDecoder decoder(t, false);
  for (size_t i = 0; i < 3; ++i) CHECK(decoder.push(bytes[i]).empty());
  CHECK(decoder.finish() == kReplacement);
  CHECK(decoder.finish().empty());
  for (const int32_t id : bytes) (void)decoder.push(id);  // a new text
  CHECK(decoder.push(bytes[1]) == kReplacement);          // a byte that begins nothing does not wait
}

TEST_CASE("a genuine U+FFFD does not stall the stream", "[text]") {
  const Tokenizer t = tiny_opt();
  StreamDecoder decoder(t, false);
  std::string text;
  for (const int32_t id : t.encode_bare("\xEF\xBF\xBDx")) text += decoder.push(id);
  CHECK(text == "\xEF\xBF\xBDx");
}

TEST_CASE("control tokens are left out when asked for", "[text]") {
  const Tokenizer t = tiny_opt();
  StreamDecoder with(t, false), without(t, true);
  CHECK(with.push(2) == "</s>");
  CHECK(without.push(2).empty());
  CHECK(without.push(0) == "<s>");  // not a control token of OPT's
}

TEST_CASE("streaming gives what decoding at once gives, for any ids", "[text]") {
  const Tokenizer t = tiny_opt();
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    // mostly single bytes, so that characters break in every way
    for (int i = 0; i < 50; ++i) ids.push_back(static_cast<int32_t>(random() % (round % 4 == 0 ? 4200 : 260)));
    for (const bool skip : {false, true}) {
      StreamDecoder decoder(t, skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string part = decoder.push(id);
        REQUIRE(is_utf8(part));
        text += part;
      }
      REQUIRE(text + decoder.finish() == t.decode(ids, skip));
    }
  }
}
