// SPDX-License-Identifier: Apache-2.0
// Ends a text before the first of some stop strings while it streams: a suffix that may yet become a stop string is held back, so
// nothing of one is ever shown. Matches decoded text byte by byte, so the result does not depend on how tokens cut the text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flexgen {

// The stop string that is complete first ends the text; of several that end at the same byte, the longest.
class StopMatcher {
 public:
  // stops: none empty
  explicit StopMatcher(const std::vector<std::string>& stops) {
    for (const std::string& s : stops) patterns_.emplace_back(s);
  }

  // Adds text and returns what may be shown now. After a match nothing is added.
  std::string push(std::string_view text) {
    std::string shown;
    for (size_t i = 0; i < text.size() && !matched_; ++i) {
      held_ += text[i];
      size_t possible = 0;  // bytes at the end of held_ that may become a stop string
      for (size_t k = 0; k < patterns_.size(); ++k) {
        Pattern& p = patterns_[k];
        p.advance(text[i]);
        possible = std::max(possible, p.matched);
        if (p.matched == p.text.size() && (!matched_ || p.text.size() > patterns_[*matched_].text.size())) matched_ = k;
      }
      const size_t keep = matched_ ? patterns_[*matched_].text.size() : possible;
      shown.append(held_, 0, held_.size() - keep);
      held_.erase(0, held_.size() - keep);
    }
    return shown;
  }

  // The text ended without a stop string: what was held back. Empty after a match.
  std::string finish() { return matched_ ? std::string() : std::exchange(held_, {}); }

  // which stop string ended the text
  std::optional<size_t> matched() const { return matched_; }

 private:
  // One string and how much of it the text ends with; Knuth, Morris and Pratt, "Fast pattern matching in strings" (1977).
  // Bytes are compared one at a time and each string has its own state: cheap for the few strings that a request has.
  struct Pattern {
    explicit Pattern(std::string s) : text(std::move(s)), border(text.size() + 1) {
      for (size_t i = 1, k = 0; i < text.size(); ++i) {
        while (k > 0 && text[i] != text[k]) k = border[k];
        if (text[i] == text[k]) ++k;
        border[i + 1] = k;
      }
    }

    void advance(char c) {  // matched < text.size()
      while (matched > 0 && text[matched] != c) matched = border[matched];
      if (text[matched] == c) ++matched;
    }

    std::string text;
    std::vector<size_t> border;  // border[n]: longest proper prefix of the first n bytes that is also their suffix
    size_t matched = 0;
  };

  std::vector<Pattern> patterns_;
  std::string held_;
  std::optional<size_t> matched_;
};

}  // namespace flexgen
