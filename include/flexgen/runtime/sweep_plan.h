// SPDX-License-Identifier: Apache-2.0
// What one sweep over the layers is to do, as a plain value: which tokens of which sequences at which positions, laid end to end in
// micro-batches, and whose logits are wanted. A long prompt may lie in several micro-batches of one sweep, in order.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "flexgen/ops/draw.h"

namespace flexgen {

using SequenceId = uint64_t;  // of a KV page table

// Consecutive tokens of one sequence. Token i has position first_position + i and sees positions 0 .. first_position + i.
struct Span {
  SequenceId sequence = 0;
  std::vector<int32_t> tokens;
  int64_t first_position = 0;
  int64_t first_logits = 0;  // logits are wanted from this token on; n_tok(): none
  std::optional<Draw> draw = {};  // a token will do in place of the last token's logits, where a device draws it

  int64_t n_tok() const { return static_cast<int64_t>(tokens.size()); }
  int64_t end() const { return first_position + n_tok(); }
};

struct MicroBatch {
  std::vector<Span> spans;

  int64_t n_tok() const {
    int64_t n = 0;
    for (const Span& s : spans) n += s.n_tok();
    return n;
  }
};

struct SweepPlan {
  std::vector<MicroBatch> micro_batches;

  int64_t n_tok() const {
    int64_t n = 0;
    for (const MicroBatch& m : micro_batches) n += m.n_tok();
    return n;
  }
};

// Lays spans end to end in micro-batches of at most max_spans spans and max_tokens tokens (both >= 1), in order; a span that does not
// fit in what is left is cut, so that a micro-batch is filled before the next one starts.
inline SweepPlan pack(std::vector<Span> spans, int64_t max_spans, int64_t max_tokens) {
  SweepPlan plan;
  int64_t room = 0;
  for (Span& s : spans) {
    while (!s.tokens.empty()) {
      if (plan.micro_batches.empty() || room == 0 || static_cast<int64_t>(plan.micro_batches.back().spans.size()) == max_spans) {
        plan.micro_batches.emplace_back();
        room = max_tokens;
      }
      const int64_t n = s.n_tok() < room ? s.n_tok() : room;
      Span piece{s.sequence, {s.tokens.begin(), s.tokens.begin() + n}, s.first_position, s.first_logits < n ? s.first_logits : n};
      if (n == s.n_tok()) piece.draw = s.draw;
      s.tokens.erase(s.tokens.begin(), s.tokens.begin() + n);
      s.first_position += n;
      s.first_logits = s.first_logits < n ? 0 : s.first_logits - n;
      plan.micro_batches.back().spans.push_back(std::move(piece));
      room -= n;
    }
  }
  return plan;
}

}  // namespace flexgen
