// SPDX-License-Identifier: Apache-2.0
// The prompts of one run: from the command line, from a file of lines, from JSON lines with settings of their own, or from standard
// input. Everything that can be wrong with a file is found here, before any work, with its line.
//
//   prompts.txt     one prompt a line; lines of spaces and tabs only are skipped
//   prompts.jsonl   {"prompt": "Once upon a time", "id": "tale", "temperature": 0.8, "do_sample": true, "stop": ["\n\n"]}
//                   {"prompt_tokens": [2, 100, 5], "max_new_tokens": 16}
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/engine/sampling_settings.h"
#include "flexgen/format/json.h"
#include "flexgen/text/utf8.h"
#include "tools/line_reader.h"
#include "tools/settings_json.h"

namespace flexgen::tools {

inline constexpr size_t kMaxIdBytes = 512;

struct Prompt {
  std::optional<std::string> text;  // this, or tokens
  std::vector<int32_t> tokens;
  Json id;                          // as it was given: a string, a whole number, or null
  GenerationSettings settings;      // the run's, with those of its line on top

  // what keys the random numbers of the prompt at this index: its own id, or else its place
  std::string key(size_t index) const { return id.is_null() ? "#" + std::to_string(index) : id.is_string() ? id.get<std::string>() : id.dump(); }
};

namespace detail {

inline void require_utf8(std::string_view text, const std::string& where) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text.substr(at));
    if (step.kind != Utf8::character) fail(Fault::usage, "{}: invalid UTF-8 at byte {}. Save the text as UTF-8", where, at);
    at += step.bytes;
  }
}

inline Json id_of(const Json& v, const std::string& where) {
  if (!v.is_string() && !v.is_number_integer()) JsonValue(v, where + ": id", Fault::usage).refuse("a string or a whole number");
  if (v.is_string() && v.get_ref<const std::string&>().empty())
    fail(Fault::usage, "{}: id: found an empty string, allowed 1 to {} bytes", where, kMaxIdBytes);
  if (v.is_string() && v.get_ref<const std::string&>().size() > kMaxIdBytes)
    fail(Fault::usage, "{}: id: found {} bytes, allowed 1 to {}", where, v.get_ref<const std::string&>().size(), kMaxIdBytes);
  return v;
}

[[noreturn]] inline void refuse_field(const std::string& name, const std::string& where) {
  static const std::map<std::string_view, std::string_view> kOthers{
      {"max_tokens", "max_new_tokens"}, {"min_tokens", "min_new_tokens"}, {"custom_id", "id"},           {"n", "num_return_sequences"},
      {"text", "prompt"},               {"input", "prompt"},              {"stop_strings", "stop"},      {"tokens", "prompt_tokens"},
      {"input_ids", "prompt_tokens"},   {"stop_sequences", "stop"},       {"prompt_token_ids", "prompt_tokens"}};
  const auto other = kOthers.find(name);
  if (other != kOthers.end()) fail(Fault::usage, "{}: unknown field '{}'. Write {}", where, printable(name), other->second);
  fail(Fault::usage, "{}: unknown field '{}', allowed id, prompt, prompt_tokens, {}", where, printable(name), kSettingNames);
}

}  // namespace detail

// One line of a .jsonl file. where: "prompts.jsonl: line 9". Throws Fault::usage.
inline Prompt parse_prompt_line(std::string_view line, const GenerationSettings& defaults, const std::string& where) {
  const Json object = parse_json(line, where, {.depth = 8, .values = 4'000'000, .fault = Fault::usage});
  if (!object.is_object()) fail(Fault::usage, "{}: found {}, allowed an object with prompt or prompt_tokens", where, describe(object));
  Prompt p;
  p.settings = defaults;
  bool has_tokens = false;
  for (const auto& [name, value] : object.items()) {
    if (name == "prompt") {
      p.text = JsonValue(value, where + ": prompt", Fault::usage).string();
    } else if (name == "prompt_tokens") {
      const JsonValue list(value, where + ": prompt_tokens", Fault::usage);
      if (!value.is_array()) list.refuse("a list of token ids");
      if (value.empty()) fail(Fault::usage, "{}: prompt_tokens: found an empty list, allowed a list of token ids", where);
      p.tokens = list.token_ids();
      has_tokens = true;
    } else if (name == "id") {
      p.id = detail::id_of(value, where);
    } else if (!set_from_json(p.settings, name, value, where + ": ")) {
      detail::refuse_field(name, where);
    }
  }
  if (p.text && has_tokens) fail(Fault::usage, "{}: found prompt and prompt_tokens, allowed one of them", where);
  if (!p.text && !has_tokens) fail(Fault::usage, "{}: found neither prompt nor prompt_tokens", where);
  check(p.settings, where + ": ");
  return p;
}

// "2,100,5"; where: what to call it in messages
inline std::vector<int32_t> parse_token_list(std::string_view text, const std::string& where) {
  std::vector<int32_t> ids;
  const auto skip_spaces = [&] { text.remove_prefix(std::min(text.find_first_not_of(' '), text.size())); };
  for (;;) {
    skip_spaces();
    int64_t id = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc{} || id < 0 || id > std::numeric_limits<int32_t>::max())
      fail(Fault::usage, "{}: found '{}', allowed token ids separated by commas. Write for example 2,100,5", where, printable(text));
    ids.push_back(static_cast<int32_t>(id));
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    skip_spaces();
    if (text.empty()) return ids;
    if (text.front() != ',') fail(Fault::usage, "{}: found '{}', allowed a comma", where, printable(text));
    text.remove_prefix(1);
  }
}

inline Prompt text_prompt(std::string_view text, const GenerationSettings& defaults, const std::string& where) {
  detail::require_utf8(text, where);
  Prompt p;
  p.text = text;
  p.settings = defaults;
  return p;
}

// Adds the prompts of a file, or of standard input ("-"). A name that ends in .jsonl holds JSON lines.
// place_of_id: where each id was seen; ids are unique within a run
inline void read_prompt_file(const std::string& path, const GenerationSettings& defaults, std::vector<Prompt>& prompts,
                             std::map<std::string, std::string>& place_of_id) {
  LineReader lines = LineReader::open(path);
  const bool json = path.ends_with(".jsonl");
  const size_t before = prompts.size();
  while (const auto line = lines.next()) {
    if (line->find_first_not_of(" \t") == line->npos) continue;
    const std::string where = lines.where();
    prompts.push_back(json ? parse_prompt_line(*line, defaults, where) : text_prompt(*line, defaults, where));
    const Prompt& p = prompts.back();
    if (p.id.is_null()) continue;
    const auto [first, is_new] = place_of_id.emplace(p.key(0), where);
    if (!is_new) fail(Fault::usage, "{}: the id '{}' is already that of {}", where, printable(first->first), first->second);
  }
  if (prompts.size() == before) fail(Fault::usage, "{}: holds no prompt", lines.name());
}

// What the command line names
struct PromptSources {
  std::vector<std::string> texts;   // --prompt
  std::vector<std::string> tokens;  // --prompt-tokens
  std::vector<std::string> files;   // --prompt-file

  bool empty() const { return texts.empty() && tokens.empty() && files.empty(); }
};

// All prompts in this order: texts, tokens, files; standard input where none of them is given
inline std::vector<Prompt> collect_prompts(const PromptSources& sources, const GenerationSettings& defaults) {
  check(defaults);
  std::vector<Prompt> prompts;
  for (const std::string& text : sources.texts) prompts.push_back(text_prompt(text, defaults, "--prompt"));
  for (const std::string& list : sources.tokens) {
    Prompt p;
    p.tokens = parse_token_list(list, "--prompt-tokens");
    p.settings = defaults;
    prompts.push_back(std::move(p));
  }
  std::map<std::string, std::string> place_of_id;
  for (const std::string& file : sources.files) read_prompt_file(file, defaults, prompts, place_of_id);
  if (sources.empty()) read_prompt_file("-", defaults, prompts, place_of_id);
  return prompts;
}

}  // namespace flexgen::tools
