// SPDX-License-Identifier: Apache-2.0
// Which tokens a device can draw as Sampler does, from logits that stay where they are. All else needs the context (penalties, n-grams,
// end tokens that must wait) or sums over the whole vocabulary (log-probabilities, no top_k).
#pragma once

#include <cstdint>
#include <optional>

#include "flexgen/engine/philox.h"
#include "flexgen/engine/sampling_settings.h"
#include "flexgen/ops/draw.h"

namespace flexgen {

// settings: checked; request, sample: as the Sampler has them; n_new: tokens of the answer so far
inline std::optional<Draw> device_draw(const GenerationSettings& s, uint64_t request, uint32_t sample, size_t n_new) {
  const bool plain = s.repetition_penalty == 1.0 && s.no_repeat_ngram_size == 0 && (s.ignore_eos || n_new >= static_cast<size_t>(s.min_new_tokens));
  if (!plain || s.logprobs) return std::nullopt;
  if (!s.do_sample) return Draw{};
  if (s.top_k < 1 || s.top_k > kMostDrawn) return std::nullopt;
  return Draw{uniform(s.seed, request, sample, static_cast<uint32_t>(n_new)), s.top_p, s.min_p, static_cast<float>(s.temperature),
              static_cast<int32_t>(s.top_k)};
}

}  // namespace flexgen
