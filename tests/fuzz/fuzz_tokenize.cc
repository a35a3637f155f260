// SPDX-License-Identifier: Apache-2.0
// Any bytes can be encoded: the ids are the vocabulary's, hold no control token unless asked, and decode to the text; streaming gives the
// same text in whole characters. Any ids can be decoded. The tokenizer is small and made here, with added tokens of every kind.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/text/stream_decoder.h"
#include "flexgen/text/tokenizer.h"

namespace {

using flexgen::Tokenizer;

const Tokenizer& tokenizer() {
  static const Tokenizer made = [] {
    nlohmann::json vocab, merges = nlohmann::json::array(), added = nlohmann::json::array();
    for (unsigned b = 0; b < 256; ++b) vocab[flexgen::byte_to_character(static_cast<uint8_t>(b))] = b;
    for (const char* pair : {"t h", "th e", "\xC4\xA0 th", "\xC4\xA0th e", "a a", "aa aa", "aaaa aa", "< /", "</ s", "\xC4\xA0 \xC4\xA0",
                             "\xC3\xA6 \xC4\xB9", "\xC3\xAF \xC2\xBF"}) {
      merges.push_back(pair);
      std::string joined = pair;
      joined.erase(joined.find(' '), 1);
      vocab[joined] = vocab.size();
    }
    const auto add = [&](const char* content, bool special, const char* flag) {
      added.push_back({{"id", vocab.size() + added.size()}, {"content", content}, {"special", special}, {"normalized", false}});
      if (*flag) added.back()[flag] = true;
    };
    add("</s>", true, ""), add("<pad>", true, "normalized"), add("[L]", false, "lstrip"), add("[R]", true, "rstrip"),
        add("word", false, "single_word"), add("[L]x", false, "");
    const nlohmann::json root = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}, {"added_tokens", added},
                                 {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}}, {"decoder", {{"type", "ByteLevel"}}}};
    return Tokenizer::from_files({{"tokenizer.json", root.dump()}}, "fuzz");
  }();
  return made;
}

void check_stream(const std::vector<int32_t>& ids, bool skip_special) {
  flexgen::StreamDecoder decoder(tokenizer(), skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    if (!flexgen::is_utf8(part)) std::abort();
    text += part;
  }
  if (text + decoder.finish() != tokenizer().decode(ids, skip_special)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Tokenizer& t = tokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);

  const std::vector<int32_t> plain = t.encode_bare(text);
  for (const int32_t id : plain)
    if (id < 0 || id >= t.size() || t.is_special(id)) std::abort();
  // [L] takes white space along, which does not come back
  if (text.find("[L]") == text.npos && t.decode(plain, false) != flexgen::replace_invalid_utf8(text)) std::abort();
  check_stream(plain, true);

  std::vector<int32_t> ids = t.encode(text, true);
  check_stream(ids, true);
  ids.clear();
  for (size_t i = 0; i + 1 < size; i += 2) ids.push_back(data[i] % 2 ? data[i + 1] : data[i] << 8 | data[i + 1]);  // many ids beyond the vocabulary
  if (size > 0) ids.push_back(-static_cast<int32_t>(data[0]));
  check_stream(ids, false);
  check_stream(ids, true);
  return 0;
}
