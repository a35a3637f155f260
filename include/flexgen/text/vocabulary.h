// SPDX-License-Identifier: Apache-2.0
// A byte-pair vocabulary as the files have it: token strings with ids, and the merge list. Read from vocab.json and merges.txt, or from
// the "model" of a tokenizer.json; checked so that everything later can index without asking.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/text/bpe.h"
#include "flexgen/text/byte_map.h"

namespace flexgen {

inline constexpr int32_t kMaxTokens = 1 << 22;       // 16 times the largest vocabulary published; bounds memory
inline constexpr size_t kMaxTokenBytes = 4096;       // of one token's string; the longest published have a few hundred

// What a string of the files is called in messages
inline std::string in_quotes(std::string_view text) { return fmt::format("'{}'", printable(text)); }

struct Vocabulary {
  std::map<std::string, int32_t, std::less<>> ids;               // string as the files write it -> id
  std::vector<std::pair<std::string, std::string>> merge_list;   // in order of rank

  bool operator==(const Vocabulary&) const = default;
};

// {token: id, ...}. file: for messages
inline Vocabulary read_vocabulary(const nlohmann::json& object, const std::string& file) {
  if (!object.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object of tokens with their ids", file, describe(object));
  if (object.empty()) fail(Fault::checkpoint, "{}: found 0 tokens, allowed 1 to {}", file, with_commas(kMaxTokens));
  if (object.size() > size_t{kMaxTokens})
    fail(Fault::checkpoint, "{}: found {} tokens, allowed 1 to {}", file, with_commas(object.size()), with_commas(kMaxTokens));
  Vocabulary v;
  for (const auto& [token, id] : object.items()) {
    if (token.size() > kMaxTokenBytes)
      fail(Fault::checkpoint, "{}: token {}: found {} bytes, allowed {}", file, in_quotes(token), with_commas(token.size()),
           with_commas(kMaxTokenBytes));
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxTokens)
      fail(Fault::checkpoint, "{}: id of token {}: found {}, allowed a whole number from 0 to {}", file, in_quotes(token), describe(id),
           kMaxTokens - 1);
    v.ids.emplace_hint(v.ids.end(), token, id.get<int32_t>());
  }
  return v;
}

// "left right" with exactly one space. place: "merges.txt: line 3", for messages
inline std::pair<std::string, std::string> split_merge(std::string_view text, const std::string& place) {
  const size_t space = text.find(' ');
  if (space == text.npos || space == 0 || space + 1 == text.size() || text.find(' ', space + 1) != text.npos)
    fail(Fault::checkpoint, "{}: found {}, allowed two pieces with one space between them", place, in_quotes(text));
  return {std::string(text.substr(0, space)), std::string(text.substr(space + 1))};
}

// merges.txt: a pair a line in order of rank. Lines that begin with "#version" are headers; those that merely begin with '#' are not.
// Source: huggingface/tokenizers models/bpe/model.rs, BpeBuilder::read_file.
inline std::vector<std::pair<std::string, std::string>> read_merges(std::string_view text, const std::string& file) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == text.npos ? std::string_view{} : text.substr(end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const bool last_lines = line.empty() && text.find_first_not_of("\r\n") == text.npos;
    if (line.starts_with("#version") || last_lines) continue;
    if (!is_utf8(line)) fail(Fault::checkpoint, "{}: line {}: invalid UTF-8", file, with_commas(number));
    merges.push_back(split_merge(line, fmt::format("{}: line {}", file, with_commas(number))));
  }
  return merges;
}

// "merges" of a tokenizer.json: strings "left right" or lists of two strings
inline std::vector<std::pair<std::string, std::string>> read_merges(const nlohmann::json& list, const std::string& file) {
  if (!list.is_array()) fail(Fault::checkpoint, "{}: found {}, allowed a list", file, describe(list));
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const auto& item : list) {
    const auto place = [&] { return fmt::format("{}: merge {}", file, with_commas(merges.size())); };
    if (item.is_string()) merges.push_back(split_merge(item.get_ref<const std::string&>(), place()));
    else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string())
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
    else
      fail(Fault::checkpoint, "{}: found {}, allowed a string or a list of two strings", place(), describe(item));
  }
  return merges;
}

// The merge list in ids. file: for messages. Merges are counted from 0, as ranks are.
inline std::vector<Merge> resolve_merges(const Vocabulary& v, const std::string& file) {
  std::unordered_map<std::string_view, int32_t> ids(v.ids.size());  // three look-ups a merge: in the sorted map a fifth of the loading time
  for (const auto& [token, id] : v.ids) ids.emplace(token, id);
  std::vector<Merge> merges;
  merges.reserve(v.merge_list.size());
  std::string joined;
  for (const auto& [left, right] : v.merge_list) {
    const auto id = [&](const std::string& piece) {
      const auto at = ids.find(piece);
      if (at == ids.end())
        fail(Fault::checkpoint, "{}: merge {} uses unknown piece {}. Take vocabulary and merges from the same model", file,
             with_commas(merges.size()), in_quotes(piece));
      return at->second;
    };
    joined.assign(left).append(right);
    const auto result = ids.find(joined);
    Merge merge{id(left), id(right), 0};
    if (result == ids.end())
      fail(Fault::checkpoint, "{}: merge {} makes {}, which the vocabulary lacks. Take vocabulary and merges from the same model", file,
           with_commas(merges.size()), in_quotes(joined));
    merge.result = result->second;
    merges.push_back(merge);
  }
  return merges;
}

// The token of each byte. All 256 are needed: without one, some text could not be written.
inline std::array<int32_t, 256> byte_tokens(const Vocabulary& v, const std::string& file) {
  std::array<int32_t, 256> ids{};
  for (unsigned b = 0; b < 256; ++b) {
    const std::string character = byte_to_character(static_cast<uint8_t>(b));
    const auto at = v.ids.find(character);
    if (at == v.ids.end())
      fail(Fault::checkpoint, "{}: found no token {} for byte 0x{:02x}, allowed one for each byte. Only byte-level vocabularies are supported", file,
           in_quotes(character), b);
    ids[b] = at->second;
  }
  return ids;
}

}  // namespace flexgen
