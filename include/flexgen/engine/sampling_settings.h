// SPDX-License-Identifier: Apache-2.0
// How one request is to be continued: the settings of HF's GenerationConfig that apply here, under HF's names, with HF's defaults
// and meaning (generation/configuration_utils.py, generation/logits_process.py). Two differ: max_new_tokens is 128 where HF
// has 20 tokens in all, and ignore_eos is what HF calls an absent eos_token_id.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"

namespace flexgen {

struct GenerationSettings {
  int64_t max_new_tokens = 128;      // the end token counts
  int64_t min_new_tokens = 0;        // before that many new tokens an end token cannot be chosen
  bool do_sample = false;            // false: the likeliest token, and temperature, top_k, top_p and min_p are not used
  double temperature = 1.0;          // scores are divided by it
  int64_t top_k = 50;                // the k likeliest tokens and whatever equals the k-th; 0: all
  double top_p = 1.0;                // the fewest tokens that together have this probability; 1: all
  double min_p = 0.0;                // tokens at least this fraction as likely as the likeliest; 0: all
  double repetition_penalty = 1.0;   // scores of ids in the context, prompt included: s < 0 ? s * r : s / r
  int64_t no_repeat_ngram_size = 0;  // no n ids in a row occur twice in prompt and answer; 0: off
  uint64_t seed = 0;
  std::vector<std::string> stop;     // the text ends before the first of them
  bool ignore_eos = false;           // end tokens are tokens like any other: they neither end a sequence nor wait for min_new_tokens
  int64_t num_return_sequences = 1;
  std::optional<int64_t> logprobs;   // log-probabilities of each new token and of this many likeliest ones
  std::vector<int32_t> eos;          // end tokens of the model

  bool is_eos(int32_t id) const {
    if (ignore_eos) return false;
    for (const int32_t e : eos)
      if (e == id) return true;
    return false;
  }
};

inline constexpr int64_t kMaxNewTokens = std::numeric_limits<int32_t>::max();  // the position in a random number's counter has 32 bits
inline constexpr int64_t kMaxReturnSequences = 65536;
inline constexpr int64_t kMaxLogprobs = 1000;
inline constexpr size_t kMaxStopStrings = 256;
inline constexpr size_t kMaxStopBytes = 4096;  // of one stop string: as much text may be held back

namespace detail {

inline void check_whole(std::string_view where, std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) fail(Fault::usage, "{}{}: found {}, allowed a whole number from {} to {}", where, name, value, low, high);
}

inline void check_real(std::string_view where, std::string_view name, double value, bool allowed, std::string_view what) {
  if (!allowed) fail(Fault::usage, "{}{}: found {}, allowed {}", where, name, value, what);
}

}  // namespace detail

// Refuses settings that have no meaning: Fault::usage, naming the setting, what was found and what is allowed.
// `where` opens the message: "prompts.jsonl: line 9: ", or empty for settings from the command line.
inline void check(const GenerationSettings& s, std::string_view where = "") {
  using detail::check_real;
  using detail::check_whole;
  check_whole(where, "max_new_tokens", s.max_new_tokens, 1, kMaxNewTokens);
  check_whole(where, "min_new_tokens", s.min_new_tokens, 0, kMaxNewTokens);
  if (s.min_new_tokens > s.max_new_tokens)
    fail(Fault::usage, "{}min_new_tokens: found {}, allowed at most max_new_tokens, which is {}", where, s.min_new_tokens, s.max_new_tokens);
  check_real(where, "temperature", s.temperature, std::isfinite(s.temperature) && s.temperature >= 0, "a number above 0");
  // The scores are f32, and so is the divisor: below the smallest normal number it would turn them into infinities.
  if (s.do_sample && s.temperature < 1e-30)
    fail(Fault::usage, "{}temperature: found {}, allowed a number above 0. For the likeliest token leave do_sample out", where, s.temperature);
  check_whole(where, "top_k", s.top_k, 0, std::numeric_limits<int32_t>::max());
  check_real(where, "top_p", s.top_p, s.top_p >= 0 && s.top_p <= 1, "a number from 0 to 1");
  check_real(where, "min_p", s.min_p, s.min_p >= 0 && s.min_p <= 1, "a number from 0 to 1");
  check_real(where, "repetition_penalty", s.repetition_penalty, s.repetition_penalty >= 1e-6 && s.repetition_penalty <= 1e6,
             "a number from 0.000001 to 1000000 (1 is off)");
  check_whole(where, "no_repeat_ngram_size", s.no_repeat_ngram_size, 0, std::numeric_limits<int32_t>::max());
  check_whole(where, "num_return_sequences", s.num_return_sequences, 1, kMaxReturnSequences);
  if (s.num_return_sequences > 1 && !s.do_sample)
    fail(Fault::usage, "{}num_return_sequences: found {}, allowed 1 without do_sample: the likeliest tokens are the same each time. Add do_sample",
         where, s.num_return_sequences);
  if (s.logprobs) check_whole(where, "logprobs", *s.logprobs, 0, kMaxLogprobs);
  if (s.stop.size() > kMaxStopStrings) fail(Fault::usage, "{}stop: found {} strings, allowed {}", where, s.stop.size(), kMaxStopStrings);
  for (const std::string& stop : s.stop) {
    if (stop.empty()) fail(Fault::usage, "{}stop: found an empty string, allowed 1 to {} bytes", where, kMaxStopBytes);
    if (stop.size() > kMaxStopBytes) fail(Fault::usage, "{}stop: found {} bytes, allowed 1 to {}", where, stop.size(), kMaxStopBytes);
  }
}

}  // namespace flexgen
