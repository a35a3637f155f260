// SPDX-License-Identifier: Apache-2.0
// Generation settings from JSON, under HF's names: one line of a prompt file, or a model's generation_config.json.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/engine/sampling_settings.h"
#include "flexgen/format/json_fields.h"

namespace flexgen::tools {

using Json = nlohmann::json;

// A value of JSON as a C++ one. `what` opens the message, and fault is its kind.
class JsonValue {
 public:
  JsonValue(const Json& value, std::string what, Fault fault) : value_(value), what_(std::move(what)), fault_(fault) {}

  int64_t whole() const {
    if (value_.is_number_unsigned() && value_.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) refuse("a whole number");
    if (!value_.is_number_integer()) refuse("a whole number");
    return value_.get<int64_t>();
  }
  uint64_t unsigned_whole() const {
    if (!value_.is_number_unsigned()) refuse("a whole number from 0 to 18446744073709551615");
    return value_.get<uint64_t>();
  }
  double real() const {
    if (!value_.is_number()) refuse("a number");
    return value_.get<double>();
  }
  bool boolean() const {
    if (!value_.is_boolean()) refuse("true or false");
    return value_.get<bool>();
  }
  const std::string& string() const {
    if (!value_.is_string()) refuse("a string");
    return value_.get_ref<const std::string&>();
  }
  std::vector<std::string> strings() const {  // one string, or a list of them
    if (value_.is_string()) return {string()};
    if (!value_.is_array()) refuse("a string or a list of strings");
    std::vector<std::string> all;
    for (size_t i = 0; i < value_.size(); ++i) all.push_back(item(i).string());
    return all;
  }
  std::vector<int32_t> token_ids() const {  // one id, or a list of them
    if (!value_.is_array()) return {token_id()};
    std::vector<int32_t> all;
    for (size_t i = 0; i < value_.size(); ++i) all.push_back(item(i).token_id());
    return all;
  }

  [[noreturn]] void refuse(std::string_view allowed) const { fail(fault_, "{}: found {}, allowed {}", what_, describe(value_), allowed); }

 private:
  JsonValue item(size_t i) const { return JsonValue(value_[i], what_ + "[" + std::to_string(i) + "]", fault_); }
  int32_t token_id() const {
    if (!value_.is_number_unsigned() || value_.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
      refuse("a whole number from 0 to 2147483647");
    return value_.get<int32_t>();
  }

  const Json& value_;
  std::string what_;
  Fault fault_;
};

// Sets the setting of that name; false where there is none. null leaves it as it is. Types are checked here, ranges by check().
// `where` opens the message ("prompts.jsonl: line 9: ").
inline bool set_from_json(GenerationSettings& s, std::string_view name, const Json& value, const std::string& where, Fault fault = Fault::usage) {
  const JsonValue v(value, where + std::string(name), fault);
  const bool given = !value.is_null();
  const auto set = [&](auto& member, auto read) {
    if (given) member = (v.*read)();
    return true;
  };
  if (name == "max_new_tokens") return set(s.max_new_tokens, &JsonValue::whole);
  if (name == "min_new_tokens") return set(s.min_new_tokens, &JsonValue::whole);
  if (name == "do_sample") return set(s.do_sample, &JsonValue::boolean);
  if (name == "temperature") return set(s.temperature, &JsonValue::real);
  if (name == "top_k") return set(s.top_k, &JsonValue::whole);
  if (name == "top_p") return set(s.top_p, &JsonValue::real);
  if (name == "min_p") return set(s.min_p, &JsonValue::real);
  if (name == "repetition_penalty") return set(s.repetition_penalty, &JsonValue::real);
  if (name == "no_repeat_ngram_size") return set(s.no_repeat_ngram_size, &JsonValue::whole);
  if (name == "seed") return set(s.seed, &JsonValue::unsigned_whole);
  if (name == "stop") return set(s.stop, &JsonValue::strings);
  if (name == "ignore_eos") return set(s.ignore_eos, &JsonValue::boolean);
  if (name == "num_return_sequences") return set(s.num_return_sequences, &JsonValue::whole);
  if (name == "logprobs") return set(s.logprobs, &JsonValue::whole);
  return false;
}

inline constexpr std::string_view kSettingNames =
    "max_new_tokens, min_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, seed, stop, "
    "ignore_eos, num_return_sequences, logprobs";

// A model's generation_config.json (null where it has none): its values become defaults where HF's generate would use them. Its
// lengths are left out, because they were chosen for a whole text and not for an answer; other fields have no meaning here.
inline void apply_generation_config(GenerationSettings& s, const Json& config, const std::string& source) {
  if (config.is_null()) return;
  if (!config.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", source, describe(config));
  const std::string where = source + ": ";
  for (const char* name : {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"})
    if (const auto it = config.find(name); it != config.end()) set_from_json(s, name, *it, where, Fault::checkpoint);
  if (const auto it = config.find("eos_token_id"); it != config.end() && !it->is_null())
    s.eos = JsonValue(*it, where + "eos_token_id", Fault::checkpoint).token_ids();
  try {
    check(s, where);
  } catch (const Error& e) {
    fail(Fault::checkpoint, "{}", e.what());
  }
}

}  // namespace flexgen::tools
