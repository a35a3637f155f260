// SPDX-License-Identifier: Apache-2.0
// Perplexity of a model on a text with a sliding window (https://huggingface.co/docs/transformers/perplexity, with exact counts):
// windows begin every `stride` tokens and are `max_length` long; a token is scored once, in the first window that holds it, given all
// earlier tokens of that window; a token that opens that window is not scored. Windows are independent sequences and share sweeps.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "flexgen/engine/softmax.h"
#include "flexgen/runtime/sweep.h"

namespace flexgen {

struct PerplexityOptions {
  int64_t max_length = 512;   // tokens of a window, 2 .. max_positions
  int64_t stride = 256;       // 1 .. max_length
  int64_t gpu_batch_size = 16;
  int64_t num_gpu_batches = 4;
  int64_t micro_batch_tokens = 512;
  DType kv_dtype = DType::f32;
  uint64_t kv_bytes = 1_GiB;  // budget of the KV cache: as many windows share a sweep as fit, at least one
  int64_t windows_at_once = 0;      // with kv: windows that share a sweep
  std::optional<KvOptions> kv = {}; // of a cache that a memory plan counted; then kv_dtype and kv_bytes are not looked at
  SweepOptions sweep = {};
};

struct PerplexityResult {
  int64_t tokens = 0;  // scored
  double nll = 0;      // mean over them, natural logarithm
  double perplexity() const { return std::exp(nll); }
};

// Fault::usage for lengths out of range or a text of fewer than 2 tokens
inline void check(const PerplexityOptions& o, const ModelDescription& model, int64_t n_tokens) {
  if (o.max_length < 2 || o.max_length > model.max_positions)
    fail(Fault::usage, "max-length: found {}, allowed 2 to the model's {}", o.max_length, model.max_positions);
  if (o.stride < 1 || o.stride > o.max_length) fail(Fault::usage, "stride: found {}, allowed 1 to max-length, which is {}", o.stride, o.max_length);
  if (n_tokens < 2) fail(Fault::usage, "the text has {} tokens, at least 2 are needed to score one", n_tokens);
}

// tokens: of the whole text, each in [0, vocab); progress(tokens scored so far). Errors as check's, and the sweep's.
inline PerplexityResult perplexity(const ModelDescription& model, const Backend& backend, ThreadPool& pool, WeightStream& weights,
                                   std::span<const int32_t> tokens, const PerplexityOptions& o,
                                   const std::function<void(int64_t)>& progress = {}, const std::atomic<bool>* stop = nullptr) {
  const auto n = static_cast<int64_t>(tokens.size());
  check(o, model, n);

  struct Window {
    int64_t begin, end, first_scored;
  };
  std::vector<Window> windows;
  for (int64_t begin = 0, done = 0; done < n; begin += o.stride) {
    const int64_t end = std::min(begin + o.max_length, n);
    windows.push_back({begin, end, std::max(done, begin + 1)});
    done = end;
  }

  const KvLayout layout{o.kv_dtype, model.n_kv_heads, model.head_dim, kAttentionBlock};
  const auto window_bytes =
      static_cast<uint64_t>(2 * model.n_layers * div_up(o.max_length, layout.page_tokens)) * round_up<uint64_t>(layout.page_bytes(), 4096);
  const auto at_once = o.kv ? static_cast<uint64_t>(std::max<int64_t>(1, o.windows_at_once))
                            : std::clamp<uint64_t>(o.kv_bytes / window_bytes, 1, static_cast<uint64_t>(o.gpu_batch_size * o.num_gpu_batches));
  KvStore cache(o.kv ? *o.kv : KvOptions::in_memory(model.n_layers, layout, at_once * window_bytes));
  Sweep sweep(model, backend, {&pool}, weights, cache, o.sweep);

  PerplexityResult result;
  double total = 0;
  for (size_t first = 0; first < windows.size(); first += at_once) {
    const size_t last = std::min<size_t>(windows.size(), first + at_once);
    std::unordered_map<SequenceId, const Window*> by_sequence;
    std::vector<Span> spans;
    for (size_t i = first; i < last; ++i) {
      const Window& w = windows[i];
      if (w.first_scored >= w.end) continue;
      const SequenceId id = cache.create();
      by_sequence[id] = &w;
      // logits of token t - 1 score token t; those of the window's last token score nothing
      spans.push_back({id, {tokens.begin() + w.begin, tokens.begin() + w.end - 1}, 0, w.first_scored - 1 - w.begin});
    }
    const SweepPlan plan = pack(std::move(spans), o.gpu_batch_size, o.micro_batch_tokens);
    sweep.run(
        plan,
        [&](const LogitsRow& row) {
          const Span& s = plan.micro_batches[row.micro_batch].spans[row.span];
          const int64_t next = by_sequence.at(s.sequence)->begin + s.first_position + row.token + 1;
          total -= LogSoftmax(row.values)[static_cast<size_t>(tokens[static_cast<size_t>(next)])];
          ++result.tokens;
          if (progress) progress(result.tokens);
        },
        stop);
    for (const auto& [id, window] : by_sequence) cache.drop(id);
  }
  result.nll = total / static_cast<double>(result.tokens);
  if (!std::isfinite(result.nll))
    fail(Fault::damaged, "the model's logits are not finite numbers. The weights are damaged or overflow in this number format");
  return result;
}

}  // namespace flexgen
