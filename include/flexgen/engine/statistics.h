// SPDX-License-Identifier: Apache-2.0
// What the engine did, in numbers: the statistics table and its JSON are made of this.
#pragma once

#include <cstdint>

namespace flexgen {

struct Statistics {
  uint64_t sweeps = 0;
  uint64_t tokens_computed = 0;   // tokens that went through the layers: no padding, nothing twice
  uint64_t prompt_tokens = 0;     // of those, given by the user
  uint64_t tokens_generated = 0;  // chosen; the last one of a sequence is not computed
  uint64_t requests_done = 0;     // answered, errors included
  uint64_t requests_failed = 0;
  uint64_t sequences_done = 0;
  uint64_t peak_sequences = 0;    // in one sweep
  uint64_t peak_kv_bytes = 0;
  double prefill_s = 0;           // sweeps that carried any prompt token
  double decode_s = 0;            // all other sweeps
  uint64_t decode_tokens = 0;     // tokens computed in those
};

}  // namespace flexgen
