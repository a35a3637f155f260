// SPDX-License-Identifier: Apache-2.0
// GPT-2's split of text into the pieces within which tokens are merged: contractions, letters, numbers, anything else, each with at most
// one space before it, and runs of white space, whose last character stays with what follows.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <new>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen {

class Gpt2Split {
 public:
  Gpt2Split() {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr));
    FG_CHECK(code_ != nullptr, "PCRE2 error {} at {} of the pattern", error, at);
    // Where the system forbids new executable pages, matching falls back to the interpreter: slower, same results.
    jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  // Calls each(std::string_view piece) for the pieces of text, which is valid UTF-8, in order; together they are the text.
  template <typename Each>
  void operator()(std::string_view text, Each&& each) const {
    const std::unique_ptr<pcre2_match_data, Free> match(pcre2_match_data_create(1, nullptr));
    if (!match) throw std::bad_alloc();
    const PCRE2_SIZE* const bounds = pcre2_get_ovector_pointer(match.get());
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    size_t at = 0;
    while (at < text.size()) {
      const int found = jit_ ? pcre2_jit_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr)
                             : pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
      // Every character begins some alternative, so each match starts where the last one ended.
      FG_CHECK(found > 0 && bounds[0] == at && bounds[1] > at, "splitting text at byte {} of {}: PCRE2 says {}", at, text.size(), found);
      each(text.substr(at, bounds[1] - at));
      at = bounds[1];
    }
  }

  bool jit() const { return jit_; }

 private:
  // GPT-2's  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+  (openai/gpt-2 src/encoder.py), with two changes
  // that alter no match: \s is spelled out, for PCRE2's takes U+180E in and HuggingFace's does not; and where giving characters back
  // could never help, quantifiers are possessive.
#define FG_SPACE R"(\p{Z}\t-\r\x{85})"
  static constexpr std::string_view kPattern =
      "'s|'t|'re|'ve|'m|'ll|'d"
      R"(| ?+\p{L}++| ?+\p{N}++| ?+[^)" FG_SPACE R"(\p{L}\p{N}]++)"
      "|[" FG_SPACE "]+(?![^" FG_SPACE "])|[" FG_SPACE "]++";
#undef FG_SPACE

  struct Free {
    void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const noexcept { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  bool jit_ = false;
};

}  // namespace flexgen
