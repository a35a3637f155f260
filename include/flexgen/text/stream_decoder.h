// SPDX-License-Identifier: Apache-2.0
// Token ids to text while they come: emits whole characters as soon as they are whole, never half of one.
#pragma once

#include <cstdint>
#include <string>

#include "flexgen/text/tokenizer.h"
#include "flexgen/text/utf8.h"

namespace flexgen {

class StreamDecoder {
 public:
  // The tokenizer outlives this.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // What id adds to the text: valid UTF-8, perhaps nothing. All that push() and finish() return is Tokenizer::decode of the ids.
  std::string push(int32_t id) {
    std::string out;
    if (skip_special_ && tokenizer_->is_special(id)) return out;
    held_.append(tokenizer_->token_bytes(id));
    held_.erase(0, held_.size() - take_utf8(held_, out));
    return out;
  }

  // At the end: U+FFFD where a character was left unfinished. The next push() begins a new text.
  std::string finish() {
    const std::string out(held_.empty() ? std::string_view{} : kReplacement);
    held_.clear();
    return out;
  }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string held_;  // up to 3 bytes that begin a character
};

}  // namespace flexgen
