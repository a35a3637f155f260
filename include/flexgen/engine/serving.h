// SPDX-License-Identifier: Apache-2.0
// What the engine keeps of the requests that it serves, and which requests it does not serve.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/engine/generated_text.h"
#include "flexgen/engine/request.h"
#include "flexgen/engine/sampler.h"
#include "flexgen/model/description.h"
#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// A dialogue: its tokens and their KV stay between requests
struct Session {
  std::vector<int32_t> tokens;
  SequenceId kv = 0;
  size_t reserved = 0;  // pages
  bool busy = false;
};

// A request that is being served
struct Group {
  RequestId id = 0;
  Request request;
  SequenceId base = 0;         // several samples: the prompt's pages
  std::vector<float> logits;   // several samples: of the prompt's last token
  bool prompt_done = false;
  int started = 0, ended = 0, running = 0;  // samples
  size_t sample_pages = 0;     // what one sample may need
  size_t reserved = 0;         // pages held for this group
  bool cancelled = false;

  int n_samples() const { return static_cast<int>(request.settings.num_return_sequences); }
};

// A sequence with a place in the block: a prompt that is being computed, or a sample
struct Sequence {
  Group* group = nullptr;
  int sample = 0;
  SequenceId kv = 0;
  std::vector<int32_t> context;  // prompt and new tokens
  size_t n_prompt = 0;
  Sampler sampler;
  GeneratedText text;
  bool ended = false;
};

// Why a request cannot be served, for its user; empty: it can. session: the dialogue that it continues, or null
inline std::string objection(const Request& r, const ModelDescription& model, bool has_tokenizer, const Session* session) {
  const size_t before = session ? session->tokens.size() : 0, n_tok = before + r.prompt.size();
  const auto limit = static_cast<size_t>(model.max_positions);
  if (r.prompt.empty()) return "the prompt has no tokens";
  for (const int32_t t : r.prompt)
    if (t < 0 || t >= model.vocab) return fmt::format("token {} in the prompt: allowed 0 to {}", t, model.vocab - 1);
  if (n_tok > limit && before > 0)
    return fmt::format("the context is full: {} tokens with this prompt, the model takes {}. Start anew (/reset)", with_commas(n_tok),
                       with_commas(limit));
  if (n_tok > limit) return fmt::format("the prompt has {} tokens, the model takes {}", with_commas(n_tok), with_commas(limit));
  try {
    check(r.settings);
  } catch (const Error& e) {
    return e.what();
  }
  if (!r.settings.stop.empty() && !has_tokenizer) return "stop strings need a tokenizer, and the model has none";
  if (session && r.settings.num_return_sequences > 1) return "a dialogue takes one answer at a time";
  if (session && session->busy) return "the dialogue is still answering";
  return "";
}

}  // namespace flexgen
