// SPDX-License-Identifier: Apache-2.0
// HF's defaults, and that every setting without a meaning is refused by name.
#include "flexgen/engine/sampling_settings.h"

#include <limits>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

namespace {

template <typename Change>
GenerationSettings with(Change change) {
  GenerationSettings s;
  change(s);
  return s;
}

#define REFUSED(statement, text) CHECK_FAULT(check(with([](GenerationSettings& s) { statement; }), "in.jsonl: line 9: "), Fault::usage, text)
#define ACCEPTED(statement) CHECK_NOTHROW(check(with([](GenerationSettings& s) { statement; })))

}  // namespace

TEST_CASE("the defaults are HF's, and greedy") {
  const GenerationSettings s;
  CHECK_NOTHROW(check(s));
  CHECK_FALSE(s.do_sample);
  CHECK(s.temperature == 1.0);
  CHECK(s.top_k == 50);
  CHECK(s.top_p == 1.0);
  CHECK(s.repetition_penalty == 1.0);
  CHECK(s.max_new_tokens == 128);
}

TEST_CASE("settings out of range are refused with the place, the value and the range") {
  REFUSED(s.max_new_tokens = 0, "in.jsonl: line 9: max_new_tokens: found 0, allowed a whole number from 1 to 2147483647");
  REFUSED(s.max_new_tokens = 1'000'000'000'000, "max_new_tokens: found 1000000000000, allowed");
  REFUSED(s.min_new_tokens = -1, "min_new_tokens: found -1, allowed a whole number from 0 to 2147483647");
  REFUSED(s.min_new_tokens = 129, "min_new_tokens: found 129, allowed at most max_new_tokens, which is 128");
  REFUSED(s.temperature = -0.5, "temperature: found -0.5, allowed a number above 0");
  REFUSED(s.temperature = std::numeric_limits<double>::quiet_NaN(), "temperature: found nan, allowed a number above 0");
  REFUSED(s.temperature = std::numeric_limits<double>::infinity(), "temperature: found inf, allowed a number above 0");
  REFUSED((s.temperature = 0, s.do_sample = true), "temperature: found 0, allowed a number above 0. For the likeliest token leave do_sample out");
  REFUSED((s.temperature = 1e-40, s.do_sample = true), "temperature: found 1e-40, allowed a number above 0");
  REFUSED(s.top_k = -1, "top_k: found -1, allowed a whole number from 0 to 2147483647");
  REFUSED(s.top_p = 1.01, "top_p: found 1.01, allowed a number from 0 to 1");
  REFUSED(s.top_p = std::numeric_limits<double>::quiet_NaN(), "top_p: found nan, allowed a number from 0 to 1");
  REFUSED(s.min_p = -0.01, "min_p: found -0.01, allowed a number from 0 to 1");
  REFUSED(s.min_p = std::numeric_limits<double>::quiet_NaN(), "min_p: found nan, allowed a number from 0 to 1");
  REFUSED(s.repetition_penalty = 0, "repetition_penalty: found 0, allowed a number from 0.000001 to 1000000 (1 is off)");
  REFUSED(s.repetition_penalty = std::numeric_limits<double>::quiet_NaN(), "repetition_penalty: found nan, allowed");
  REFUSED(s.no_repeat_ngram_size = -2, "no_repeat_ngram_size: found -2, allowed a whole number from 0 to 2147483647");
  REFUSED((s.num_return_sequences = 0, s.do_sample = true), "num_return_sequences: found 0, allowed a whole number from 1 to 65536");
  REFUSED(s.num_return_sequences = 2, "num_return_sequences: found 2, allowed 1 without do_sample");
  REFUSED(s.logprobs = -1, "logprobs: found -1, allowed a whole number from 0 to 1000");
  REFUSED(s.stop = {""}, "stop: found an empty string, allowed 1 to 4096 bytes");
  REFUSED(s.stop = {std::string(5000, 'x')}, "stop: found 5000 bytes, allowed 1 to 4096");
  REFUSED(s.stop = std::vector<std::string>(257, "x"), "stop: found 257 strings, allowed 256");
}

TEST_CASE("the edges of the ranges are accepted") {
  ACCEPTED(s.temperature = 0);  // HF ignores it without do_sample
  ACCEPTED((s.top_k = 0, s.top_p = 0, s.min_p = 1, s.do_sample = true, s.temperature = 0.01));
  ACCEPTED((s.min_new_tokens = 128, s.max_new_tokens = 128));
  ACCEPTED((s.num_return_sequences = 4, s.do_sample = true));
  ACCEPTED(s.logprobs = 0);
}

TEST_CASE("end tokens are a list, and ignore_eos turns them off") {
  GenerationSettings s;
  s.eos = {2, 7};
  CHECK(s.is_eos(7));
  CHECK_FALSE(s.is_eos(3));
  s.ignore_eos = true;
  CHECK_FALSE(s.is_eos(7));
}
