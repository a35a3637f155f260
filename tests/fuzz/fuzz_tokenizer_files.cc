// SPDX-License-Identifier: Apache-2.0
// A tokenizer's files, whatever they hold, make a tokenizer that works or a Fault::checkpoint. The input is a list of files: each begins
// with a line "=== name"; "@alphabet" in vocab.json or tokenizer.json stands for the 256 byte tokens with ids 0 to 255.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/text/stream_decoder.h"
#include "flexgen/text/tokenizer.h"

namespace {

std::string alphabet() {
  std::string out;
  for (unsigned b = 0; b < 256; ++b) {
    const std::string c = flexgen::byte_to_character(static_cast<uint8_t>(b));
    const char* const escape = c == "\"" || c == "\\" ? "\\" : "";
    out += fmt::format("{}\"{}{}\":{}", b == 0 ? "" : ",", escape, c, b);
  }
  return out;
}

std::map<std::string, std::string> split_files(std::string_view input) {
  static const std::string bytes = alphabet();
  constexpr std::string_view kMark = "=== ", kAlphabet = "@alphabet";
  std::map<std::string, std::string> files;
  std::string* current = nullptr;
  while (!input.empty()) {
    const size_t end = std::min(input.find('\n'), input.size() - 1) + 1;
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(end);
    if (line.starts_with(kMark)) {
      current = &files[std::string(line.substr(kMark.size(), line.size() - kMark.size() - (line.ends_with('\n') ? 1 : 0)))];
    } else if (current) {
      const size_t at = line.find(kAlphabet);
      current->append(line.substr(0, at));
      if (at != line.npos) current->append(bytes).append(line.substr(at + kAlphabet.size()));
    }
  }
  return files;
}

void use(const flexgen::Tokenizer& t) {
  for (const std::string_view text : {"the  king's </s> <pad>\xE6\x97\xA5 12", "aaaaaaaa", "\xFF"}) {
    for (const int32_t id : t.encode_bare(text))
      if (id < 0 || id >= t.size() || t.is_special(id)) std::abort();
    const std::vector<int32_t> ids = t.encode(text, true);
    flexgen::StreamDecoder decoder(t, true);
    std::string streamed;
    for (const int32_t id : ids) streamed += decoder.push(id);
    if (streamed + decoder.finish() != t.decode(ids, true)) std::abort();
  }
  size_t bytes = 0;
  for (int32_t id = 0; id < t.size(); ++id) bytes += t.token_bytes(id).size() + t.is_special(id);
  if (bytes == 0) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto files = split_files(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    use(flexgen::Tokenizer::from_files(files, "fuzz"));
  } catch (const flexgen::Error& e) {
    if (e.fault() != flexgen::Fault::checkpoint || !std::string_view(e.what()).starts_with("fuzz")) std::abort();
  }
  return 0;
}
