// SPDX-License-Identifier: Apache-2.0
// What goes into the engine and what comes out: requests, each with its own settings, and events.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/engine/sampler.h"

namespace flexgen {

using RequestId = uint64_t;
using SessionId = uint64_t;

struct Request {
  std::string id;                    // keys the random numbers, with seed, sample and position: a sample depends on nothing else
  std::vector<int32_t> prompt;       // at least one token, each in the model's vocabulary
  GenerationSettings settings;
  std::optional<SessionId> session;  // the prompt continues this dialogue: only its tokens are computed
};

enum class FinishReason { length, eos, stop, cancelled, error };

constexpr std::string_view name(FinishReason r) {
  switch (r) {
    case FinishReason::length: return "length";
    case FinishReason::eos: return "eos";
    case FinishReason::stop: return "stop";
    case FinishReason::cancelled: return "cancelled";
    case FinishReason::error: return "error";
  }
  return "error";
}

// Events of one sample come in order: token, token, ..., end. A request that cannot be served has one end event (sample 0) for all samples.
struct Event {
  enum class Kind { token, end };
  Kind kind = Kind::token;
  RequestId request = 0;
  int sample = 0;                       // 0 .. num_return_sequences - 1
  int32_t token = 0;                    // token
  std::string text;                     // whole characters that can be shown now; never part of a stop string; special tokens left out
  std::optional<TokenLogprobs> logprobs;  // token, where they were asked for
  FinishReason reason = FinishReason::length;  // end
  std::string error;                    // end with FinishReason::error: why
  bool last = false;                    // end: nothing more comes of this request
};

}  // namespace flexgen
