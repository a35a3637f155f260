// SPDX-License-Identifier: Apache-2.0
// From one row of logits to the next token, as HF's generate does it: logits processors in its order (generation/utils.py,
// _get_logits_processor; generation/logits_process.py), then the likeliest token or one draw. A sampler keeps no state: its result
// is a function of settings, request, sample, logits and the tokens so far, so sequences may be sampled in any order, on any thread.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/engine/philox.h"
#include "flexgen/engine/sampling_settings.h"
#include "flexgen/engine/softmax.h"

namespace flexgen {

struct TokenLogprobs {
  double logprob = 0;                           // of the chosen token, from the model's own logits before any processor
  std::vector<std::pair<int32_t, double>> top;  // the N likeliest, likeliest first
};

struct SampledToken {
  int32_t id = 0;
  std::optional<TokenLogprobs> logprobs;  // where GenerationSettings::logprobs is set
};

// A token that may still be drawn
struct Candidate {
  int32_t id = 0;
  float score = 0;
  double weight = 0;  // e^(score - largest score): its probability times a number common to all
};

// Working memory of a sampler call, kept between calls. thread: one call at a time
struct SamplerScratch {
  std::vector<float> scores;  // [V]
  std::vector<float> values;
  std::vector<Candidate> candidates;
};

// FNV-1a, 64 bits: what stands for a request in its random numbers
constexpr uint64_t request_hash(std::string_view id) {
  uint64_t h = 0xCBF29CE484222325;
  for (const char c : id) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return h;
}

namespace detail {

inline constexpr float kBanned = -std::numeric_limits<float>::infinity();

// every finite value stays finite: a penalty or a small temperature must not make an infinity that nothing can be compared with
inline float finite(float v) { return std::clamp(v, -FLT_MAX, FLT_MAX); }

// RepetitionPenaltyLogitsProcessor: once per distinct id, because what is written back comes from the scores before
inline void penalise_repetition(std::span<float> scores, std::span<const int32_t> context, float penalty, std::vector<float>& values) {
  values.resize(context.size());
  for (size_t i = 0; i < context.size(); ++i) {
    const float s = scores[static_cast<size_t>(context[i])];
    values[i] = finite(s < 0 ? s * penalty : s / penalty);
  }
  for (size_t i = 0; i < context.size(); ++i) scores[static_cast<size_t>(context[i])] = values[i];
}

// NoRepeatNGramLogitsProcessor: ids that followed an earlier occurrence of the last n - 1 ids
inline void ban_repeated_ngrams(std::span<float> scores, std::span<const int32_t> context, size_t n) {
  if (context.size() < n) return;
  const auto last = context.last(n - 1);
  for (size_t i = 0; i + n <= context.size(); ++i)
    if (std::equal(last.begin(), last.end(), context.begin() + static_cast<ptrdiff_t>(i))) scores[static_cast<size_t>(context[i + n - 1])] = kBanned;
}

// TopPLogitsWarper: HF sorts ascending and removes while the cumulative probability is at most 1 - p, so a token stays where those
// before it in descending order (of equal ones the higher id first) hold less than p. The likeliest always stays.
// Sorts only as many of the likeliest as are needed.
inline void keep_top_p(std::vector<Candidate>& c, double p) {
  const auto before = [](const Candidate& a, const Candidate& b) { return a.score != b.score ? a.score > b.score : a.id > b.id; };
  double total = 0;
  for (const Candidate& x : c) total += x.weight;
  size_t sorted = 0, kept = 0;
  double larger = 0;  // weight of those before c[kept]
  for (size_t want = 128; kept < c.size(); want *= 4) {
    const auto begin = c.begin() + static_cast<ptrdiff_t>(sorted), end = c.begin() + static_cast<ptrdiff_t>(std::min(want, c.size()));
    if (end != c.end()) std::nth_element(begin, end - 1, c.end(), before);
    std::sort(begin, end, before);
    sorted = static_cast<size_t>(end - c.begin());
    while (kept < sorted && (kept == 0 || larger < p * total)) larger += c[kept++].weight;
    if (kept < sorted) break;
  }
  c.resize(kept);
  std::sort(c.begin(), c.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

}  // namespace detail

// The processors that act on every choice, greedy ones too. scores: [V], in place; context: prompt and new tokens, each id in
// [0, V); n_new: how many of them are new
inline void process_context(const GenerationSettings& s, std::span<float> scores, std::span<const int32_t> context, size_t n_new,
                            SamplerScratch& scratch) {
  if (s.repetition_penalty != 1.0) detail::penalise_repetition(scores, context, static_cast<float>(s.repetition_penalty), scratch.values);
  if (s.no_repeat_ngram_size > 0) detail::ban_repeated_ngrams(scores, context, static_cast<size_t>(s.no_repeat_ngram_size));
  if (!s.ignore_eos && n_new < static_cast<size_t>(s.min_new_tokens))
    for (const int32_t e : s.eos)
      if (e >= 0 && static_cast<size_t>(e) < scores.size()) scores[static_cast<size_t>(e)] = detail::kBanned;
}

// The processors of sampling: temperature, top_k, top_p, min_p. Leaves in scratch.candidates what may be drawn, by ascending id,
// with weights. scores: [V], in place; at least one is not banned
inline void weigh_candidates(const GenerationSettings& s, std::span<float> scores, SamplerScratch& scratch) {
  if (s.temperature != 1.0) {
    const float t = static_cast<float>(s.temperature);
    for (float& v : scores)
      if (v != detail::kBanned) v = detail::finite(v / t);
  }
  float floor = detail::kBanned;
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < scores.size()) floor = kth_largest(scores, static_cast<size_t>(s.top_k), scratch.values);
  const double max = largest(scores);
  auto& c = scratch.candidates;
  c.clear();
  for (size_t id = 0; id < scores.size(); ++id)
    if (scores[id] >= floor && scores[id] != detail::kBanned) c.push_back({static_cast<int32_t>(id), scores[id], 0});
  for (Candidate& x : c) x.weight = exp_nonpositive(static_cast<double>(x.score) - max);
  if (s.top_p < 1.0) detail::keep_top_p(c, s.top_p);
  if (s.min_p > 0.0) std::erase_if(c, [&](const Candidate& x) { return x.weight < s.min_p; });  // the likeliest has weight 1
}

// One of the candidates that weigh_candidates left, by a random number in [0, 1)
inline int32_t draw_candidate(std::span<const Candidate> candidates, double uniform) {
  double total = 0, sum = 0;
  for (const Candidate& c : candidates) total += c.weight;
  const double target = uniform * total;
  for (const Candidate& c : candidates)
    if ((sum += c.weight) > target) return c.id;
  // target < total, but weights too small to move the sum may stand last: the last one that can be drawn
  return std::find_if(candidates.rbegin(), candidates.rend(), [](const Candidate& c) { return c.weight > 0; })->id;
}

class Sampler {
 public:
  // settings: checked, and outlive the sampler; request: request_hash of its id; sample: which of num_return_sequences
  Sampler(const GenerationSettings& settings, uint64_t request, uint32_t sample) : settings_(&settings), request_(request), sample_(sample) {}

  // The next token. logits: [V] of the last token; context: prompt and new tokens, of which the first n_prompt are the prompt's;
  // every id in [0, V). Throws Fault::damaged where a logit is not finite, Fault::usage where the settings leave no token.
  SampledToken next(std::span<const float> logits, std::span<const int32_t> context, size_t n_prompt, SamplerScratch& scratch) const {
    FG_CHECK(!logits.empty() && n_prompt <= context.size(), "{} logits, {} tokens, {} of the prompt", logits.size(), context.size(), n_prompt);
    require_finite(logits, context.size());
    const size_t n_new = context.size() - n_prompt;
    SampledToken token;
    token.id = choose(logits, context, n_new, scratch);
    if (settings_->logprobs) {
      const LogSoftmax lp(logits);
      token.logprobs = TokenLogprobs{lp[static_cast<size_t>(token.id)], lp.top(static_cast<size_t>(*settings_->logprobs))};
    }
    return token;
  }

 private:
  static void require_finite(std::span<const float> logits, size_t position) {
    if (all_finite(logits)) return;
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float v) { return !std::isfinite(v); });
    fail(Fault::damaged,
         "logits after token {}: found {} for id {}, allowed finite numbers. The weights are damaged or overflow in this number format", position,
         *bad, bad - logits.begin());
  }

  int32_t choose(std::span<const float> logits, std::span<const int32_t> context, size_t n_new, SamplerScratch& scratch) const {
    const GenerationSettings& s = *settings_;
    const bool plain = s.repetition_penalty == 1.0 && s.no_repeat_ngram_size == 0 && (s.ignore_eos || n_new >= static_cast<size_t>(s.min_new_tokens));
    if (plain && !s.do_sample) return argmax(logits);
    scratch.scores.assign(logits.begin(), logits.end());
    process_context(s, scratch.scores, context, n_new, scratch);
    const int32_t best = argmax(scratch.scores);
    if (scratch.scores[static_cast<size_t>(best)] == detail::kBanned)
      fail(Fault::usage, "no token of {} is left after {} tokens. Raise no_repeat_ngram_size or lower min_new_tokens", logits.size(), context.size());
    if (!s.do_sample) return best;
    weigh_candidates(s, scratch.scores, scratch);
    return draw_candidate(scratch.candidates, uniform(s.seed, request_, sample_, static_cast<uint32_t>(n_new)));
  }

  const GenerationSettings* settings_;
  uint64_t request_;
  uint32_t sample_;
};

}  // namespace flexgen
