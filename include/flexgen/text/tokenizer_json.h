// SPDX-License-Identifier: Apache-2.0
// The pipeline that a tokenizer.json describes, as far as it is byte-level BPE without a normalizer. What is not supported is refused by
// name: a tokenizer that is nearly right would give nearly right ids. Source: huggingface/tokenizers tokenizer/serialization.rs,
// pre_tokenizers/byte_level.rs, processors/template.rs, models/bpe/serialization.rs.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/text/vocabulary.h"

namespace flexgen {

// Token ids around the text
struct TokenFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

struct TokenizerPipeline {
  bool add_prefix_space = false;    // one space before a text that does not begin with one
  bool split = true;                // by GPT-2's pattern before merging
  bool ignore_merges = false;       // a piece that is a token becomes that token without merging
  std::optional<TokenFrame> frame;  // where the file has a template
};

namespace detail {

inline const nlohmann::json& member(const nlohmann::json& object, const char* key) {
  static const nlohmann::json kNull;
  const auto at = object.find(key);
  return at == object.end() ? kNull : *at;
}

// The "type" of a pipeline part; "null" where there is no part
inline std::string type_of(const nlohmann::json& part, const std::string& place) {
  return part.is_null() ? "null" : JsonFields(part, place).text("type");
}

[[noreturn]] inline void unsupported(const std::string& place, const std::string& found, const char* allowed) {
  fail(Fault::checkpoint, "{}: found {}, allowed {}. This kind of tokenizer is not supported yet", place, printable(found), allowed);
}

// "single" of a TemplateProcessing: special tokens before and after the one sequence
inline TokenFrame read_template(const nlohmann::json& part, const std::string& place) {
  TokenFrame frame;
  bool after = false;
  const auto& items = member(part, "single");
  if (!items.is_array()) fail(Fault::checkpoint, "{}: single: found {}, allowed a list", place, describe(items));
  for (const auto& item : items) {
    const auto& sequence = item.is_object() ? member(item, "Sequence") : nlohmann::json();
    const auto& special = item.is_object() ? member(item, "SpecialToken") : nlohmann::json();
    if (sequence.is_object() && !after) {
      after = true;
      continue;
    }
    if (!special.is_object()) fail(Fault::checkpoint, "{}: single: found {}, allowed special tokens and one sequence", place, describe(item));
    const std::string name = JsonFields(special, place + ": SpecialToken").text("id");
    const auto& tokens = member(part, "special_tokens");
    const auto& token = tokens.is_object() ? member(tokens, name.c_str()) : nlohmann::json();
    const auto& ids = token.is_object() ? member(token, "ids") : nlohmann::json();
    if (!ids.is_array()) fail(Fault::checkpoint, "{}: special_tokens: {} has no ids", place, in_quotes(name));
    for (const auto& id : ids) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxTokens)
        fail(Fault::checkpoint, "{}: id of {}: found {}, allowed a whole number from 0 to {}", place, in_quotes(name), describe(id), kMaxTokens - 1);
      (after ? frame.after : frame.before).push_back(id.get<int32_t>());
    }
  }
  if (!after) fail(Fault::checkpoint, "{}: single: found no sequence, allowed one", place);
  return frame;
}

inline void read_post_processor(const nlohmann::json& part, const std::string& place, TokenizerPipeline& out) {
  const std::string type = type_of(part, place);
  if (type == "null" || type == "ByteLevel") return;  // ByteLevel trims offsets, not tokens
  if (type == "TemplateProcessing") {
    if (out.frame) fail(Fault::checkpoint, "{}: found a second TemplateProcessing, allowed one", place);
    out.frame = read_template(part, place);
  } else if (type == "Sequence") {
    const auto& parts = member(part, "processors");
    if (!parts.is_array()) fail(Fault::checkpoint, "{}: processors: found {}, allowed a list", place, describe(parts));
    for (const auto& inner : parts) {
      if (type_of(inner, place) == "Sequence") unsupported(place, "Sequence in a Sequence", "ByteLevel and TemplateProcessing");
      read_post_processor(inner, place, out);
    }
  } else {
    unsupported(place, type, "ByteLevel, TemplateProcessing, a Sequence of them, or null");
  }
}

}  // namespace detail

// Everything but "added_tokens", which SpecialTokens reads. file: for messages
inline TokenizerPipeline read_pipeline(const nlohmann::json& root, const std::string& file) {
  using detail::member, detail::type_of, detail::unsupported;
  if (!root.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", file, describe(root));
  TokenizerPipeline out;

  const auto& model = member(root, "model");
  const JsonFields fields(model, file + ": model");
  const std::string type = fields.text_or("type", "BPE");  // early files name no type
  if (type != "BPE") unsupported(file + ": model", type, "BPE");
  if (fields.number_or("dropout", 0, -1e300, 1e300) != 0) unsupported(file + ": model: dropout", describe(model["dropout"]), "null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const std::string text = fields.text_or(key, ""); !text.empty()) unsupported(file + ": model: " + key, in_quotes(text), "none");
  if (fields.flag_or("byte_fallback", false)) unsupported(file + ": model: byte_fallback", "true", "false");
  out.ignore_merges = fields.flag_or("ignore_merges", false);

  if (const std::string found = type_of(member(root, "normalizer"), file + ": normalizer"); found != "null")
    unsupported(file + ": normalizer", found, "null");

  const auto& pre = member(root, "pre_tokenizer");
  if (const std::string found = type_of(pre, file + ": pre_tokenizer"); found != "ByteLevel")
    unsupported(file + ": pre_tokenizer", found, "ByteLevel");
  const JsonFields pre_fields(pre, file + ": pre_tokenizer");
  out.add_prefix_space = pre_fields.flag_or("add_prefix_space", true);
  out.split = pre_fields.flag_or("use_regex", true);

  if (const std::string found = type_of(member(root, "decoder"), file + ": decoder"); found != "ByteLevel")
    unsupported(file + ": decoder", found, "ByteLevel");

  detail::read_post_processor(member(root, "post_processor"), file + ": post_processor", out);
  return out;
}

// Vocabulary and merges of a tokenizer.json that read_pipeline() has accepted
inline Vocabulary read_model(const nlohmann::json& root, const std::string& file) {
  const auto& model = detail::member(root, "model");
  Vocabulary v = read_vocabulary(detail::member(model, "vocab"), file + ": model: vocab");
  v.merge_list = read_merges(detail::member(model, "merges"), file + ": model: merges");
  return v;
}

}  // namespace flexgen
