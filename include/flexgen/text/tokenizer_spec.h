// SPDX-License-Identifier: Apache-2.0
// All that a tokenizer's files say, checked and joined: which file counts for what, what HuggingFace takes for granted, and OPT's own
// rules where no tokenizer_config.json is there.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/json.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/text/added_tokens.h"
#include "flexgen/text/bpe.h"
#include "flexgen/text/special_tokens.h"
#include "flexgen/text/tokenizer_json.h"
#include "flexgen/text/vocabulary.h"

namespace flexgen {

struct TokenizerSpec {
  std::vector<std::string> tokens;          // by id, in the files' characters
  std::vector<bool> in_vocabulary;          // by id: known to merging, not only as an added token
  std::vector<AddedToken> added;            // ids are those of tokens
  std::array<int32_t, 256> byte_ids{};      // token of each byte
  std::vector<Merge> merges;                // in order of rank
  TokenizerPipeline pipeline;
  TokenFrame frame;                         // what encoding puts around a text
  std::optional<int32_t> bos, eos, pad;
};

class TokenizerFiles {
 public:
  using Files = std::map<std::string, std::string>;  // name -> text

  // Keeps references to both.
  TokenizerFiles(const Files& files, const std::string& source) : files_(files), source_(source) {}

  TokenizerSpec read() {
    TokenizerSpec spec;
    SpecialTokens special;
    config_ = json("tokenizer_config.json");
    if (has("tokenizer_config.json") && !config_.is_object())
      fail(Fault::checkpoint, "{}: found {}, allowed an object", path("tokenizer_config.json"), describe(config_));
    const Vocabulary vocabulary = read_vocabulary_files(spec.pipeline, special);
    read_special_tokens(special);

    spec.added = special.resolve(vocabulary.ids, source_);
    spec.merges = resolve_merges(vocabulary, merges_file_);
    spec.byte_ids = byte_tokens(vocabulary, vocabulary_file_);
    number_tokens(vocabulary, spec);
    refuse_reachable_control_tokens(spec);

    const auto id_of = [&](const char* key) -> std::optional<int32_t> {
      const auto content = special.content(key);
      if (!content) return std::nullopt;
      const auto at = std::find_if(spec.added.begin(), spec.added.end(), [&](const AddedToken& t) { return t.content == *content; });
      return at == spec.added.end() ? std::nullopt : std::optional(at->id);
    };
    spec.bos = id_of("bos_token");
    spec.eos = id_of("eos_token");
    spec.pad = id_of("pad_token");
    set_frame(special, spec);
    return spec;
  }

 private:
  bool has(const char* name) const { return files_.contains(name); }
  std::string path(const char* name) const { return fmt::format("{}/{}", source_, name); }
  nlohmann::json json(const char* name) const { return has(name) ? parse_json(files_.at(name), path(name)) : nlohmann::json(); }

  Vocabulary read_pair() const {
    Vocabulary v = read_vocabulary(json("vocab.json"), path("vocab.json"));
    v.merge_list = read_merges(std::string_view(files_.at("merges.txt")), path("merges.txt"));
    return v;
  }

  Vocabulary read_vocabulary_files(TokenizerPipeline& pipeline, SpecialTokens& special) {
    const bool has_pair = has("vocab.json") && has("merges.txt");
    if (!has("tokenizer.json") && !has_pair)
      fail(Fault::checkpoint, "{}: tokenizer: found {}, allowed tokenizer.json, or vocab.json with merges.txt. Copy them from the model's folder",
           source_,
           has("vocab.json")   ? "vocab.json without merges.txt"
           : has("merges.txt") ? "merges.txt without vocab.json"
                               : "none of its files");
    Vocabulary vocabulary;
    if (has("tokenizer.json")) {
      vocabulary_file_ = merges_file_ = path("tokenizer.json");
      const nlohmann::json root = json("tokenizer.json");
      pipeline = read_pipeline(root, vocabulary_file_);
      vocabulary = read_model(root, vocabulary_file_);
      if (has_pair && vocabulary != read_pair())
        fail(Fault::checkpoint,
             "{}: found another vocabulary or merge list than in vocab.json and merges.txt, allowed the same. Remove the files that are not the "
             "model's",
             vocabulary_file_);
      if (const auto& list = detail::member(root, "added_tokens"); !list.is_null()) special.add_list(list, vocabulary_file_ + ": added_tokens");
    } else {
      vocabulary_file_ = path("vocab.json");
      merges_file_ = path("merges.txt");
      vocabulary = read_pair();
    }
    if (config_.is_object())
      pipeline.add_prefix_space = JsonFields(config_, path("tokenizer_config.json")).flag_or("add_prefix_space", pipeline.add_prefix_space);
    return vocabulary;
  }

  void read_special_tokens(SpecialTokens& special) const {
    const nlohmann::json& decoder = config_.is_object() ? detail::member(config_, "added_tokens_decoder") : config_;
    if (config_.is_object()) special.name(config_, path("tokenizer_config.json"));
    if (decoder.is_object() && !decoder.empty()) {
      special.add_decoder(decoder, path("tokenizer_config.json") + ": added_tokens_decoder");
    } else {  // the files of earlier versions count only without it
      if (has("special_tokens_map.json")) {
        const nlohmann::json map = json("special_tokens_map.json");
        if (!map.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", path("special_tokens_map.json"), describe(map));
        special.name(map, path("special_tokens_map.json"));
      }
      if (has("added_tokens.json")) special.add_encoder(json("added_tokens.json"), path("added_tokens.json"));
    }
    if (!config_.is_object()) {
      special.name_default("bos_token", "</s>");
      special.name_default("eos_token", "</s>");
      special.name_default("pad_token", "<pad>");
    } else if (!has("tokenizer.json")) {  // GPT2Tokenizer's own defaults
      for (const char* key : {"bos_token", "eos_token", "unk_token"}) special.name_default(key, "<|endoftext|>");
    }
  }

  // Ids are 0, 1, 2, ... without a gap: vocabulary and added tokens together.
  void number_tokens(const Vocabulary& vocabulary, TokenizerSpec& spec) const {
    std::vector<std::pair<int32_t, const std::string*>> order;
    for (const auto& [content, id] : vocabulary.ids) order.emplace_back(id, &content);
    const size_t n_vocabulary = order.size();
    for (const AddedToken& t : spec.added)
      if (!vocabulary.ids.contains(t.content)) order.emplace_back(t.id, &t.content);
    const std::string& file = order.size() == n_vocabulary ? vocabulary_file_ : source_;
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < order.size(); ++i) {
      const int32_t id = order[i].first;
      if (i > 0 && id == order[i - 1].first)
        fail(Fault::checkpoint, "{}: id {}: found two tokens, {} and {}, allowed one", file, id,
             in_quotes(std::min(*order[i - 1].second, *order[i].second)), in_quotes(std::max(*order[i - 1].second, *order[i].second)));
      if (id != static_cast<int32_t>(i))
        fail(Fault::checkpoint, "{}: id {}: found no token, allowed one for each id from 0 to {}", file, i, order.back().first);
      spec.tokens.push_back(*order[i].second);
    }
    spec.in_vocabulary.assign(spec.tokens.size(), false);
    for (const auto& [content, id] : vocabulary.ids) spec.in_vocabulary[static_cast<size_t>(id)] = true;
  }

  // No text may become a control token by merging.
  void refuse_reachable_control_tokens(const TokenizerSpec& spec) const {
    std::vector<bool> control(spec.tokens.size());
    for (const AddedToken& t : spec.added) control[static_cast<size_t>(t.id)] = t.special;
    for (size_t b = 0; b < 256; ++b)
      if (control[static_cast<size_t>(spec.byte_ids[b])])
        fail(Fault::checkpoint, "{}: byte 0x{:02x} is the control token {}: any text with it would hold one. Name another control token", source_, b,
             in_quotes(spec.tokens[static_cast<size_t>(spec.byte_ids[b])]));
    for (size_t rank = 0; rank < spec.merges.size(); ++rank)
      if (const auto result = static_cast<size_t>(spec.merges[rank].result); control[result])
        fail(Fault::checkpoint, "{}: merge {} makes the control token {}: ordinary text could hold one. Name another control token", merges_file_,
             with_commas(rank), in_quotes(spec.tokens[result]));
  }

  // A template counts first, then add_bos_token and add_eos_token; without a tokenizer_config.json OPT's </s> comes first.
  void set_frame(const SpecialTokens& special, TokenizerSpec& spec) const {
    if (spec.pipeline.frame) {
      spec.frame = *spec.pipeline.frame;
    } else if (!config_.is_object()) {
      if (spec.bos) spec.frame.before.push_back(*spec.bos);
    } else {
      const std::string file = path("tokenizer_config.json");
      const auto add = [&](const char* flag, const char* key, std::optional<int32_t> id, std::vector<int32_t>& side) {
        if (!JsonFields(config_, file).flag_or(flag, false)) return;
        if (!id)
          fail(Fault::checkpoint, "{}: {} is true, but {}: found {}, allowed a token of the vocabulary", file, flag, key,
               special.content(key) ? in_quotes(*special.content(key)) : "none");
        side.push_back(*id);
      };
      add("add_bos_token", "bos_token", spec.bos, spec.frame.before);
      add("add_eos_token", "eos_token", spec.eos, spec.frame.after);
    }
    for (const auto* side : {&spec.frame.before, &spec.frame.after})
      for (const int32_t id : *side)
        if (id < 0 || static_cast<size_t>(id) >= spec.tokens.size())
          fail(Fault::checkpoint, "{}: post_processor: found id {}, allowed 0 to {}", vocabulary_file_, id, spec.tokens.size() - 1);
  }

  const Files& files_;
  const std::string& source_;
  nlohmann::json config_;           // tokenizer_config.json, or null
  std::string vocabulary_file_;     // where each is from, for messages
  std::string merges_file_;
};

}  // namespace flexgen
