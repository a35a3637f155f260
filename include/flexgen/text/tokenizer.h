// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, as HuggingFace does it for OPT and its kin: byte-level BPE. Text that a user gives never becomes a control
// token unless the caller asks for it; a vocabulary in which it could is refused.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/text/added_tokens.h"
#include "flexgen/text/bpe.h"
#include "flexgen/text/byte_map.h"
#include "flexgen/text/pretokenize.h"
#include "flexgen/text/token_table.h"
#include "flexgen/text/tokenizer_spec.h"
#include "flexgen/text/utf8.h"

namespace flexgen {

// thread: all const functions may be called from any number of threads at once.
class Tokenizer {
 public:
  static constexpr size_t kMaxTextBytes = 1_GiB;

  // From a checkpoint's files, name -> text: tokenizer.json, or vocab.json and merges.txt; with tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json where there are any. Where both forms are there tokenizer.json counts, as with
  // HuggingFace, and the other must hold the same vocabulary. Without a tokenizer_config.json, and where no template says otherwise, the
  // rules are OPT's: </s> first, </s> and <pad> are control tokens.
  // source: the folder or file that they are from, for messages. throws Fault::checkpoint
  static Tokenizer from_files(const std::map<std::string, std::string>& files, const std::string& source) {
    return Tokenizer(TokenizerFiles(files, source).read());
  }

  // The ids of text with the tokens that this tokenizer puts around it (OPT: </s> first). Bytes that are not UTF-8 are taken as U+FFFD,
  // as Python's errors="replace" does. parse_special: </s> in the text is the control token, not five characters.
  // throws Fault::usage for a text of more than kMaxTextBytes
  std::vector<int32_t> encode(std::string_view text, bool parse_special = false) const {
    std::vector<int32_t> ids = frame_.before;
    append(text, parse_special, ids);
    ids.insert(ids.end(), frame_.after.begin(), frame_.after.end());
    return ids;
  }

  // The ids of text alone: what continues a sequence that has begun.
  std::vector<int32_t> encode_bare(std::string_view text, bool parse_special = false) const {
    std::vector<int32_t> ids;
    append(text, parse_special, ids);
    return ids;
  }

  // The text of ids; bytes that form no character become U+FFFD. Ids without a string (padding of the model's vocabulary) give nothing.
  // skip_special: control tokens give nothing either. A StreamDecoder emits exactly this.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const {
    std::string bytes;
    for (const int32_t id : ids)
      if (!skip_special || !is_special(id)) bytes.append(token_bytes(id));
    return is_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
  }

  // What a token stands for; not always whole characters. Empty for ids without a string. Lives as long as this.
  std::string_view token_bytes(int32_t id) const { return table_.bytes(id); }
  bool is_special(int32_t id) const { return id >= 0 && id < size() && special_[static_cast<size_t>(id)]; }
  int32_t size() const { return table_.size(); }  // ids 0 to size() - 1 have strings

  std::optional<int32_t> bos() const { return bos_; }
  std::optional<int32_t> eos() const { return eos_; }
  std::optional<int32_t> pad() const { return pad_; }

 private:
  explicit Tokenizer(TokenizerSpec spec)
      : bpe_(spec.byte_ids, spec.merges),
        special_(spec.tokens.size()),
        whole_(new std::atomic<Whole>[spec.tokens.size()]),
        pipeline_(spec.pipeline),
        frame_(std::move(spec.frame)),
        bos_(spec.bos),
        eos_(spec.eos),
        pad_(spec.pad) {
    for (const AddedToken& t : spec.added) special_[static_cast<size_t>(t.id)] = t.special;
    for (size_t id = 0; id < spec.tokens.size(); ++id) {
      const auto bytes = characters_to_bytes(spec.tokens[id]);
      table_.add(bytes ? *bytes : spec.tokens[id], bytes && spec.in_vocabulary[id] && !special_[id]);
      whole_[id].store(pipeline_.ignore_merges ? Whole::yes : Whole::unknown, std::memory_order_relaxed);
    }
    added_ = AddedTokens(std::move(spec.added));
  }

  void append(std::string_view text, bool parse_special, std::vector<int32_t>& ids) const {
    if (text.size() > kMaxTextBytes)
      fail(Fault::usage, "text: found {} bytes, allowed {}. Give it in parts", with_commas(text.size()), with_commas(kMaxTextBytes));
    std::string repaired;
    if (!is_utf8(text)) text = repaired = replace_invalid_utf8(text);
    added_.cut(text, parse_special, [&](std::string_view piece) { append_text(piece, ids); }, [&](int32_t id) { ids.push_back(id); });
  }

  // text: valid UTF-8 without added tokens, not empty
  void append_text(std::string_view text, std::vector<int32_t>& ids) const {
    std::string with_space;
    if (pipeline_.add_prefix_space && text.front() != ' ') text = with_space.append(" ").append(text);
    if (pipeline_.split) split_(text, [&](std::string_view piece) { append_piece(piece, ids); });
    else append_piece(text, ids);
  }

  // Most pieces are one token. Whether merging really ends there is found out once for each token that is met.
  void append_piece(std::string_view piece, std::vector<int32_t>& ids) const {
    const int32_t id = table_.find(piece);
    const Whole whole = id < 0 ? Whole::no : whole_[static_cast<size_t>(id)].load(std::memory_order_relaxed);
    if (whole == Whole::yes) return ids.push_back(id);
    const size_t before = ids.size();
    bpe_.encode(piece, ids);
    if (whole == Whole::unknown) {
      const bool one = ids.size() == before + 1 && ids.back() == id;
      whole_[static_cast<size_t>(id)].store(one ? Whole::yes : Whole::no, std::memory_order_relaxed);
    }
  }

  enum class Whole : uint8_t { unknown, yes, no };  // do a token's bytes become that token?

  TokenTable table_;
  AddedTokens added_;
  Gpt2Split split_;
  Bpe bpe_;
  std::vector<bool> special_;                     // by id
  std::unique_ptr<std::atomic<Whole>[]> whole_;   // by id; all threads would store the same
  TokenizerPipeline pipeline_;
  TokenFrame frame_;
  std::optional<int32_t> bos_, eos_, pad_;
};

}  // namespace flexgen
