// SPDX-License-Identifier: Apache-2.0
// What tokenizer_config.json, special_tokens_map.json, added_tokens.json and the "added_tokens" of a tokenizer.json say about tokens that
// are cut out of raw text, and which of them begins, ends and pads. Source: huggingface/transformers tokenization_utils_base.py,
// PreTrainedTokenizerBase._from_pretrained, and tokenization_utils_tokenizers.py, TokenizersBackend.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/text/added_tokens.h"
#include "flexgen/text/vocabulary.h"

namespace flexgen {

// A token as these files write it: a string, or an object with "content" and flags. id stays -1: the vocabulary knows it.
inline AddedToken read_added_token(const nlohmann::json& v, const std::string& place) {
  AddedToken token;
  if (v.is_string()) {
    token.content = v.get<std::string>();
  } else {
    if (!v.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed a string or an object with \"content\"", place, describe(v));
    const JsonFields fields(v, place);
    token.content = fields.text("content");
    token.single_word = fields.flag_or("single_word", false);
    token.lstrip = fields.flag_or("lstrip", false);
    token.rstrip = fields.flag_or("rstrip", false);
    token.special = fields.flag_or("special", false);
    token.normalized = fields.flag_or("normalized", !token.special);
  }
  if (token.content.empty() || token.content.size() > kMaxTokenBytes)
    fail(Fault::checkpoint, "{}: content: found {} bytes, allowed 1 to {}", place, with_commas(token.content.size()), with_commas(kMaxTokenBytes));
  return token;
}

class SpecialTokens {
 public:
  // A token with an id of its own, from "added_tokens", "added_tokens_decoder" or added_tokens.json. The first to name a content decides
  // its flags; any of them makes it special.
  void add(AddedToken token, const std::string& place) {
    const auto [at, is_new] = place_of_.try_emplace(token.content, tokens_.size());
    if (is_new) return tokens_.push_back(std::move(token));
    AddedToken& same = tokens_[at->second];
    if (same.id >= 0 && token.id >= 0 && same.id != token.id)
      fail(Fault::checkpoint, "{}: id of token {}: found {}, elsewhere {}, allowed one", place, in_quotes(token.content), token.id, same.id);
    if (same.id < 0) same.id = token.id;
    same.special |= token.special;
  }

  // bos_token, eos_token, ... of one file; a later call overrides an earlier one
  void name(const nlohmann::json& object, const std::string& file) {
    static constexpr std::array kNames{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    for (const char* key : kNames) {
      const auto at = object.find(key);
      if (at == object.end()) continue;
      if (at->is_null()) named_.erase(key);
      else named_.insert_or_assign(key, read_added_token(*at, file + ": " + key));
    }
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const auto at = object.find(key);
      if (at == object.end() || at->is_null()) continue;
      if (!at->is_array() && !at->is_object()) fail(Fault::checkpoint, "{}: {}: found {}, allowed a list", file, key, describe(*at));
      for (const auto& item : *at) extra_.push_back(read_added_token(item, file + ": " + key));
    }
  }
  void name_default(const std::string& key, const std::string& content) {
    AddedToken token;
    token.content = content;
    named_.try_emplace(key, std::move(token));
  }

  // {id: token, ...} of a tokenizer_config.json
  void add_decoder(const nlohmann::json& object, const std::string& file) {
    if (!object.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", file, describe(object));
    for (const auto& [id, value] : object.items()) {
      const bool digits = !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == id.npos;
      if (!digits || std::stoi(id) >= kMaxTokens)
        fail(Fault::checkpoint, "{}: found {}, allowed an id from 0 to {}", file, in_quotes(id), kMaxTokens - 1);
      AddedToken token = read_added_token(value, file + ": " + id);
      token.id = std::stoi(id);
      add(std::move(token), file);
    }
  }
  // {token: id, ...} of an added_tokens.json; special are those that the other files name
  void add_encoder(const nlohmann::json& object, const std::string& file) {
    if (!object.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", file, describe(object));
    for (const auto& [content, id] : object.items()) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxTokens)
        fail(Fault::checkpoint, "{}: id of token {}: found {}, allowed a whole number from 0 to {}", file, in_quotes(content), describe(id),
             kMaxTokens - 1);
      AddedToken token = read_added_token(content, file);
      token.id = id.get<int32_t>();
      token.normalized = true;
      add(std::move(token), file);
    }
  }
  // [{"id": ..., "content": ..., ...}, ...] of a tokenizer.json
  void add_list(const nlohmann::json& list, const std::string& file) {
    if (!list.is_array()) fail(Fault::checkpoint, "{}: found {}, allowed a list", file, describe(list));
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string place = fmt::format("{}: {}", file, i);
      if (!list[i].is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", place, describe(list[i]));
      AddedToken token = read_added_token(list[i], place);
      token.id = static_cast<int32_t>(JsonFields(list[i], place).whole("id", 0, kMaxTokens - 1));
      add(std::move(token), place);
    }
  }

  std::optional<std::string> content(const std::string& key) const {
    const auto at = named_.find(key);
    return at == named_.end() ? std::nullopt : std::optional(at->second.content);
  }

  // All tokens to cut out, named ones last. Contents without an id get the vocabulary's, and are left out where it has none: HuggingFace
  // would make up an id beyond the model's embedding for them.
  std::vector<AddedToken> resolve(const std::map<std::string, int32_t, std::less<>>& ids, const std::string& source) {
    for (auto& [key, token] : named_) add_special(token, source);
    for (auto& token : extra_) add_special(token, source);
    std::vector<AddedToken> known;
    for (AddedToken& token : tokens_) {
      const auto at = ids.find(token.content);
      if (at != ids.end() && token.id >= 0 && token.id != at->second)
        fail(Fault::checkpoint, "{}: id of added token {}: found {}, in the vocabulary {}, allowed one", source, in_quotes(token.content), token.id,
             at->second);
      if (at != ids.end()) token.id = at->second;
      if (token.id >= 0) known.push_back(token);
    }
    return known;
  }

 private:
  void add_special(AddedToken token, const std::string& source) {
    token.special = true;
    add(std::move(token), source);
  }

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, size_t> place_of_;  // in tokens_, of a content
  std::map<std::string, AddedToken> named_;
  std::vector<AddedToken> extra_;
};

}  // namespace flexgen
