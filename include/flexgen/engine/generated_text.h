// SPDX-License-Identifier: Apache-2.0
// The text of one answer as it comes: tokens become whole characters, and nothing of a stop string is ever shown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "flexgen/engine/stop_strings.h"
#include "flexgen/text/stream_decoder.h"

namespace flexgen {

class GeneratedText {
 public:
  // tokenizer: null gives no text, and then there are no stop strings. stops: none empty
  GeneratedText(const Tokenizer* tokenizer, const std::vector<std::string>& stops) : matcher_(stops) {
    if (tokenizer) decoder_.emplace(*tokenizer, /*skip_special=*/true);
  }

  // what the token adds to the text that can be shown
  std::string push(int32_t token) { return decoder_ ? matcher_.push(decoder_->push(token)) : std::string(); }

  // a stop string is complete
  bool stopped() const { return matcher_.matched().has_value(); }

  // the rest, when the answer has ended: half a character as U+FFFD, and what might have become a stop string
  std::string finish() {
    if (!decoder_ || stopped()) return "";
    std::string rest = matcher_.push(decoder_->finish());
    return rest + matcher_.finish();
  }

 private:
  std::optional<StreamDecoder> decoder_;
  StopMatcher matcher_;
};

}  // namespace flexgen
