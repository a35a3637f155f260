// SPDX-License-Identifier: Apache-2.0
// Added tokens: strings that are cut out of the raw text before it is split and merged. Same results as huggingface/tokenizers
// tokenizer/added_vocabulary.rs, find_matches and extract_and_normalize: leftmost, longest, first those that match raw text, then, in
// what is left, those that match normalized text (no normalizer is supported, so both see the same characters).
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/text/utf8.h"

namespace flexgen {

struct AddedToken {
  std::string content;       // valid UTF-8, not empty
  int32_t id = -1;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // is looked for after the others
  bool special = false;      // a control token: cut out only when asked for
};

// Unicode's \w as in Rust's regex: Alphabetic, M, Nd, Pc, Join_Control
class WordCharacter {
 public:
  WordCharacter() {
    int error = 0;
    PCRE2_SIZE at = 0;
    constexpr std::string_view kPattern = R"(^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])";
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr));
    FG_CHECK(code_ != nullptr, "PCRE2 error {} at {} of the pattern", error, at);
  }
  // Does text, valid UTF-8, begin with one?
  bool begins(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, Free> match(pcre2_match_data_create(1, nullptr));
    if (!match) throw std::bad_alloc();
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, PCRE2_NO_UTF_CHECK, match.get(), nullptr) > 0;
  }
  bool ends(std::string_view text) const {
    size_t i = text.size();
    while (i > 0 && (static_cast<uint8_t>(text[i - 1]) & 0xC0) == 0x80) --i;
    return i > 0 && begins(text.substr(i - 1));
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const noexcept { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
};

// A trie over the contents of one phase's tokens
class TokenMatcher {
 public:
  void add(std::string_view content, size_t token) {
    uint32_t node = 0;
    for (const char c : content) {
      const auto [next, is_new] = edges_.try_emplace(edge(node, c), static_cast<uint32_t>(token_at_.size()));
      if (is_new) token_at_.push_back(kNone);
      node = next->second;
    }
    if (token_at_[node] == kNone) token_at_[node] = static_cast<uint32_t>(token);  // of equal contents the first
    begins_[static_cast<uint8_t>(content.front())] = true;
  }
  bool empty() const { return edges_.empty(); }

  struct Found {
    size_t begin, end;  // bytes
    size_t token;
  };
  // The first place from `at` on where a token matches, the longest there; end == 0 where there is none
  Found next(std::string_view text, size_t at) const {
    for (; at < text.size(); ++at) {
      if (!begins_[static_cast<uint8_t>(text[at])]) continue;
      Found best{at, 0, 0};
      uint32_t node = 0;
      for (size_t i = at; i < text.size(); ++i) {
        const auto found = edges_.find(edge(node, text[i]));
        if (found == edges_.end()) break;
        node = found->second;
        if (token_at_[node] != kNone) best = {at, i + 1, token_at_[node]};
      }
      if (best.end != 0) return best;
    }
    return {0, 0, 0};
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static uint64_t edge(uint32_t node, char c) { return uint64_t(node) << 8 | static_cast<uint8_t>(c); }

  std::unordered_map<uint64_t, uint32_t> edges_;  // (node, byte) -> node
  std::vector<uint32_t> token_at_{kNone};         // index of the token that ends at a node
  std::array<bool, 256> begins_{};
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // tokens: contents not empty; of several with the same content the first counts
  explicit AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& t = tokens_[i];
      phases_[t.normalized].matcher.add(t.content, i);
      phases_[t.normalized].all_special &= t.special;
    }
  }

  std::span<const AddedToken> tokens() const { return tokens_; }

  // Cuts text (valid UTF-8) into what is between added tokens, text_piece(std::string_view), and the tokens, token_id(int32_t), in order.
  // Without parse_special control tokens are left in the text.
  template <typename TextPiece, typename TokenId>
  void cut(std::string_view text, bool parse_special, TextPiece&& text_piece, TokenId&& token_id) const {
    cut_phase(
        phases_[0], text, parse_special, [&](std::string_view rest) { cut_phase(phases_[1], rest, parse_special, text_piece, token_id); }, token_id);
  }

 private:
  struct Phase {
    TokenMatcher matcher;
    bool all_special = true;
  };

  template <typename TextPiece, typename TokenId>
  void cut_phase(const Phase& phase, std::string_view text, bool parse_special, TextPiece&& text_piece, TokenId&& token_id) const {
    size_t done = 0;  // text before this has been handed out
    if (!phase.matcher.empty() && (parse_special || !phase.all_special)) {
      for (size_t at = 0;;) {
        const auto found = phase.matcher.next(text, at);
        if (found.end == 0) break;
        at = found.end;  // also when the match does not count: it is skipped whole, as HuggingFace's iterator does
        const AddedToken& token = tokens_[found.token];
        if (token.special && !parse_special) continue;
        if (token.single_word && (word_.ends(text.substr(0, found.begin)) || word_.begins(text.substr(found.end)))) continue;
        size_t begin = found.begin, end = found.end;
        if (token.lstrip) begin = std::max(done, begin - trailing_space(text.substr(0, begin)));
        if (token.rstrip) end += leading_space(text.substr(end));
        if (done < begin) text_piece(text.substr(done, begin - done));
        token_id(token.id);
        done = end;
      }
    }
    if (done < text.size()) text_piece(text.substr(done));
  }

  static size_t leading_space(std::string_view text) {
    size_t n = 0;
    while (n < text.size()) {
      const Utf8Step step = next_utf8(text.substr(n));
      if (!is_white_space(step.code)) break;
      n += step.bytes;
    }
    return n;
  }
  static size_t trailing_space(std::string_view text) {
    size_t n = text.size();
    while (n > 0) {
      size_t i = n - 1;
      while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
      if (!is_white_space(next_utf8(text.substr(i)).code)) break;
      n = i;
    }
    return text.size() - n;
  }

  std::vector<AddedToken> tokens_;
  std::array<Phase, 2> phases_;  // by AddedToken::normalized
  WordCharacter word_;
};

}  // namespace flexgen
