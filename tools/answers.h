// SPDX-License-Identifier: Apache-2.0
// From the engine's events, which come as sequences happen to advance, to answers in the order of the prompts: text that streams, or one
// JSON object a line. An answer is shown when it can be: as it comes if all before it have ended, otherwise when they have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flexgen/engine/request.h"

namespace flexgen::tools {

// One sequence that was asked for
struct Answer {
  size_t index = 0;  // of the prompt
  int sample = 0;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;  // one a token, where they were asked for
  std::string text;
  FinishReason reason = FinishReason::length;
  std::string error;
  bool ended = false;
};

class Answers {
 public:
  // shown(answer, from): the text of `answer` from byte `from` on is new. Called for the first answer that has not ended whenever it
  // grows, and for each one as it ends; answers come in order, and one with `ended` is the last of its sequence.
  using Shown = std::function<void(const Answer& answer, size_t from)>;

  explicit Answers(Shown shown) : shown_(std::move(shown)) {}

  // Prompts are submitted in order of their index, without gaps.
  void submitted(RequestId request, size_t index, int64_t samples) {
    requests_[request] = {index, next_sequence_, samples, samples};
    n_pending_ += static_cast<size_t>(samples);
    for (int s = 0; s < samples; ++s) {
      Answer& a = open_[next_sequence_++];
      a.index = index;
      a.sample = s;
    }
  }

  void take(const Event& e) {
    const auto at = requests_.find(e.request);
    FG_CHECK(at != requests_.end(), "request {}", e.request);
    Submitted& r = at->second;
    Answer& a = open_.at(r.first + static_cast<uint64_t>(e.sample));
    a.text += e.text;
    if (e.kind == Event::Kind::token) {
      a.tokens.push_back(e.token);
      if (e.logprobs) a.logprobs.push_back(*e.logprobs);
      return;
    }
    a.ended = true;
    a.reason = e.reason;
    a.error = e.error;
    n_failed_ += e.reason == FinishReason::error;
    if (e.last && r.left > 1) {  // the request cannot be served: that holds for every sample of it, and is told once
      for (int64_t s = 1; s < r.samples; ++s) open_.erase(r.first + static_cast<uint64_t>(s));
      n_pending_ -= static_cast<size_t>(r.left - 1);
      r.left = 1;
    }
    --n_pending_;
    if (--r.left == 0) requests_.erase(at);
  }

  // Shows what can be shown now.
  void show() {
    while (!open_.empty()) {
      const Answer& a = open_.begin()->second;
      if (a.ended || a.text.size() > n_shown_) shown_(a, std::exchange(n_shown_, a.text.size()));
      if (!a.ended) return;
      n_shown_ = 0;
      open_.erase(open_.begin());
    }
  }

  // After an interruption: shows the answers that have ended, whatever is missing before them.
  void show_ended() {
    show();
    if (!open_.empty() && n_shown_ > 0) open_.erase(open_.begin());  // half of it has been shown
    n_shown_ = 0;
    for (const auto& [sequence, a] : open_)
      if (a.ended) shown_(a, 0);
    open_.clear();
  }

  size_t n_pending() const { return n_pending_; }  // sequences that have not ended
  size_t n_failed() const { return n_failed_; }    // answers with an error

 private:
  struct Submitted {
    size_t index = 0;
    uint64_t first = 0;  // sequence number of its sample 0
    int64_t samples = 0;
    int64_t left = 0;    // samples that have not ended
  };

  Shown shown_;
  std::unordered_map<RequestId, Submitted> requests_;
  std::map<uint64_t, Answer> open_;  // by sequence number: not shown to the end yet
  uint64_t next_sequence_ = 0;
  size_t n_shown_ = 0;  // bytes of the first open answer's text
  size_t n_pending_ = 0;
  size_t n_failed_ = 0;
};

// What --json prints of an answer, without its newline. id: as given, or null; prompt: its text, null where the model has no tokenizer
inline std::string answer_json(const Answer& a, const nlohmann::json& id, const nlohmann::json& prompt, const std::vector<int32_t>& prompt_tokens,
                               bool with_logprobs) {
  nlohmann::ordered_json o;
  o["index"] = a.index;
  o["sample"] = a.sample;
  if (!id.is_null()) o["id"] = id;
  o["prompt"] = prompt;
  o["prompt_tokens"] = prompt_tokens;
  o["tokens"] = a.tokens;
  o["text"] = a.text;
  o["finish_reason"] = name(a.reason);
  if (a.reason == FinishReason::error) o["error"] = a.error;
  if (with_logprobs) {
    auto& list = o["logprobs"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < a.logprobs.size(); ++i) {
      auto top = nlohmann::ordered_json::array();
      for (const auto& [token, logprob] : a.logprobs[i].top) top.push_back({token, logprob});
      list.push_back({{"token", a.tokens[i]}, {"logprob", a.logprobs[i].logprob}, {"top", std::move(top)}});
    }
  }
  return o.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace flexgen::tools
