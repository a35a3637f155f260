// SPDX-License-Identifier: Apache-2.0
// The sweep: one pass of a block of micro-batches over all layers. Interprets the model's program; reaches weights and cache only
// through acquire and release.
//
// Two loop orders, the same results:
//   blocks outside  every linear takes its weight a few row blocks at a time and runs them over all micro-batches, so that a short ring
//                   of blocks is enough and a block is still in the CPU's cache for the next micro-batch. Each micro-batch needs its own
//                   activations: chosen where they all fit in `activation_bytes` (decoding).
//   step outside    a step's weights are held while micro-batch after micro-batch goes through it with one shared scratch.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "flexgen/memory/buffer.h"
#include "flexgen/model/program.h"
#include "flexgen/ops/backend.h"
#include "flexgen/runtime/kv_store.h"
#include "flexgen/runtime/sweep_plan.h"
#include "flexgen/runtime/weight_stream.h"

namespace flexgen {

struct SweepOptions {
  uint64_t activation_bytes = 256_MiB;  // above it, micro-batches share scratch
  uint64_t logits_bytes = 64_MiB;       // logits that lie in memory at a time
};

// One row of logits: token `token` of span `span` of micro-batch `micro_batch`. The values may be changed; they die with the call.
struct LogitsRow {
  size_t micro_batch = 0, span = 0;
  int64_t token = 0;
  std::span<float> values;  // [V]
};

// thread: one at a time
class Sweep {
 public:
  Sweep(const ModelDescription& model, const Backend& backend, Queue queue, WeightStream& weights, KvStore& cache, SweepOptions options = {})
      : model_(model), program_(opt_program(model)), backend_(backend), queue_(queue), weights_(weights), cache_(cache), options_(options) {}

  // Runs the plan, appends K and V (not committed), hands out wanted logits in the plan's order. With *stop set, throws
  // Fault::interrupted between two operations; what was appended is then worthless, and was never committed.
  void run(const SweepPlan& plan, const std::function<void(const LogitsRow&)>& on_logits, const std::atomic<bool>* stop = nullptr) {
    plan_ = &plan;
    stop_ = stop;
    lay_out();
    if (plan.n_tok() == 0) return;
    for (const Step& step : program_.body) run_step(step);
    run_head(on_logits);
  }

 private:
  // A micro-batch's rows: where its activations begin in each slot
  struct Rows {
    int64_t n_tok = 0;
    std::array<float*, kSlots> slot{};
    std::vector<int32_t> tokens, positions;
  };

  MatView<float> view(const Rows& r, Slot s, int64_t cols) const { return {r.slot[static_cast<size_t>(s)], r.n_tok, cols, cols}; }

  void lay_out() {
    const auto& w = program_.width;
    const int64_t scratch = w[1] + w[2];
    int64_t largest = 0;
    for (const MicroBatch& m : plan_->micro_batches) largest = std::max(largest, m.n_tok());
    const int64_t total = plan_->n_tok();
    shared_scratch_ = static_cast<uint64_t>(total * scratch) * sizeof(float) > options_.activation_bytes && plan_->micro_batches.size() > 1;
    const int64_t scratch_tokens = shared_scratch_ ? largest : total;
    reserve(activations_, static_cast<size_t>(total * w[0] + scratch_tokens * scratch) * sizeof(float));

    rows_.resize(plan_->micro_batches.size());
    float* hidden = activations_.as<float>();
    float* a = hidden + total * w[0];
    float* b = a + scratch_tokens * w[1];
    for (size_t i = 0; i < rows_.size(); ++i) {
      Rows& r = rows_[i];
      r.n_tok = plan_->micro_batches[i].n_tok();
      r.slot = {hidden, a, b, nullptr};
      r.tokens.clear();
      r.positions.clear();
      for (const Span& s : plan_->micro_batches[i].spans) {
        FG_CHECK(s.first_position >= 0 && s.end() <= model_.max_positions, "positions [{}, {}) of {}", s.first_position, s.end(), model_.max_positions);
        for (int64_t t = 0; t < s.n_tok(); ++t) {
          r.tokens.push_back(s.tokens[static_cast<size_t>(t)]);
          r.positions.push_back(static_cast<int32_t>(s.first_position + t + model_.position_offset));
        }
      }
      hidden += r.n_tok * w[0];
      if (!shared_scratch_) a += r.n_tok * w[1], b += r.n_tok * w[2];
    }
  }

  static void reserve(Buffer& buffer, size_t bytes) {
    if (buffer.size() < bytes) buffer = Buffer(bytes);
  }

  void run_step(const Step& step) {
    if (!shared_scratch_) {
      for (const Operation& op : step.operations) run_over(op, step.layer, rows_);
      return;
    }
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear) weights_.acquire(*op.weight, 0, weights_.n_blocks(*op.weight));
    for (size_t i = 0; i < rows_.size(); ++i)
      for (const Operation& op : step.operations) run_over(op, step.layer, std::span(rows_).subspan(i, 1));
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear) weights_.release(*op.weight, 0, weights_.n_blocks(*op.weight));
  }

  // one operation over some micro-batches, in order
  void run_over(const Operation& op, int64_t layer, std::span<Rows> batches) {
    if (stop_ && stop_->load(std::memory_order_relaxed)) fail(Fault::interrupted, "stopped");
    switch (op.kind) {
      case Operation::Kind::linear: return run_linear(op, batches);
      case Operation::Kind::norm:
        for (Rows& r : batches) run_norm(op, r);
        return;
      case Operation::Kind::embed_tokens:
      case Operation::Kind::embed_positions:
        for (Rows& r : batches) run_embed(op, r);
        return;
      case Operation::Kind::attend:
        for (Rows& r : batches) run_attend(op, layer, r);
        return;
    }
  }

  void run_linear(const Operation& op, std::span<Rows> batches) {
    const size_t blocks = weights_.n_blocks(*op.weight);
    for (size_t first = 0; first < blocks;) {
      const size_t last = std::min(blocks, first + kBlocksAtOnce);
      const WeightView w = weights_.acquire(*op.weight, first, last);
      for (Rows& r : batches)
        linear(backend_,
               {view(r, op.in, w.cols), w, op.bias ? weights_.vector(*op.bias) : nullptr, view(r, op.out, w.rows), op.activation, op.accumulate}, queue_);
      weights_.release(*op.weight, first, last);
      first = last;
    }
  }

  void run_norm(const Operation& op, Rows& r) {
    layer_norm(backend_,
               {view(r, op.in, model_.width), op.weight ? weights_.vector(*op.weight) : nullptr, op.bias ? weights_.vector(*op.bias) : nullptr,
                view(r, op.out, model_.width), model_.norm_eps},
               queue_);
  }

  void run_embed(const Operation& op, Rows& r) {
    const auto& ids = op.kind == Operation::Kind::embed_tokens ? r.tokens : r.positions;
    const WeightView table = weights_.acquire_rows(*op.weight, ids);
    embed(backend_, {ids, table, view(r, op.out, table.cols), op.accumulate}, queue_);
    weights_.release_rows(*op.weight);
  }

  void run_attend(const Operation& op, int64_t layer, Rows& r) {
    const MicroBatch& batch = plan_->micro_batches[static_cast<size_t>(&r - rows_.data())];
    const int64_t d = model_.head_dim, q_width = model_.n_heads * d, kv_width = model_.n_kv_heads * d;
    const MatView<float> qkv = view(r, op.in, q_width + 2 * kv_width);
    const KvView& kv = cache_.acquire(layer, batch);
    kv_append(backend_, {qkv.columns(q_width, kv_width), qkv.columns(q_width + kv_width, kv_width), cache_.layout(), kv.spans}, queue_);
    attention(backend_,
              {qkv.columns(0, q_width), view(r, op.out, q_width), model_.n_heads, 1.0f / std::sqrt(static_cast<float>(d)), cache_.layout(), kv.spans},
              queue_);
    cache_.release(layer, batch);
  }

  // The head runs over gathered rows, as many at a time as their logits fit.
  void run_head(const std::function<void(const LogitsRow&)>& on_logits) {
    const auto& w = program_.head_width;
    std::vector<LogitsRow> wanted;
    std::vector<const float*> hidden;  // of each wanted row
    for (size_t m = 0; m < plan_->micro_batches.size(); ++m) {
      const float* row = rows_[m].slot[0];
      for (size_t s = 0; s < plan_->micro_batches[m].spans.size(); ++s) {
        const Span& span = plan_->micro_batches[m].spans[s];
        for (int64_t t = span.first_logits; t < span.n_tok(); ++t) wanted.push_back({m, s, t, {}}), hidden.push_back(row + t * w[0]);
        row += span.n_tok() * w[0];
      }
    }
    if (wanted.empty()) return;
    const auto at_once = std::max<size_t>(1, std::min<size_t>(wanted.size(), options_.logits_bytes / (static_cast<size_t>(model_.vocab) * sizeof(float))));
    reserve(head_, at_once * static_cast<size_t>(w[0] + w[1] + w[2] + w[3]) * sizeof(float));
    for (size_t first = 0; first < wanted.size(); first += at_once) {
      const size_t n = std::min(at_once, wanted.size() - first);
      Rows r;
      r.n_tok = static_cast<int64_t>(n);
      float* next = head_.as<float>();
      for (size_t s = 0; s < kSlots; ++s) r.slot[s] = next, next += r.n_tok * w[s];
      for (size_t i = 0; i < n; ++i) std::copy_n(hidden[first + i], w[0], r.slot[0] + static_cast<int64_t>(i) * w[0]);
      for (const Operation& op : program_.head.operations) run_over(op, -1, {&r, 1});
      for (size_t i = 0; i < n; ++i) {
        LogitsRow row = wanted[first + i];
        row.values = {r.slot[3] + static_cast<int64_t>(i) * w[3], static_cast<size_t>(w[3])};
        on_logits(row);
      }
    }
  }

  // Row blocks are about 2 MiB: enough rows for every thread, still in the second-level caches for the next micro-batch.
  static constexpr size_t kBlocksAtOnce = 4;

  const ModelDescription model_;
  const Program program_;
  const Backend& backend_;
  Queue queue_;
  WeightStream& weights_;
  KvStore& cache_;
  SweepOptions options_;

  const SweepPlan* plan_ = nullptr;
  const std::atomic<bool>* stop_ = nullptr;
  std::vector<Rows> rows_;
  Buffer activations_, head_;
  bool shared_scratch_ = false;
};

}  // namespace flexgen
