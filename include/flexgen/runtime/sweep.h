// SPDX-License-Identifier: Apache-2.0
// The sweep: one pass of a block of micro-batches over all layers. Interprets the model's program; reaches weights and cache only
// through acquire and release.
//
// Two loop orders, the same results:
//   blocks outside  every linear takes its weight a few row blocks at a time and runs them over all micro-batches, so that a short ring
//                   of blocks is enough and a block is still in the CPU's cache for the next micro-batch. Each micro-batch needs its own
//                   activations: chosen where they all fit in `activation_bytes` (decoding).
//   step outside    a step's weights are held while micro-batch after micro-batch goes through it with one shared scratch; hidden states
//                   may lie on disk between two steps.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/model/program.h"
#include "flexgen/ops/device_backend.h"
#include "flexgen/runtime/compute_clock.h"
#include "flexgen/runtime/hidden_store.h"
#include "flexgen/runtime/kv_store.h"
#include "flexgen/runtime/split_attention.h"
#include "flexgen/runtime/sweep_plan.h"
#include "flexgen/runtime/weight_stream.h"

namespace flexgen {

struct SweepOptions {
  uint64_t activation_bytes = 256_MiB;  // of scratch; above it, micro-batches share one
  uint64_t logits_bytes = 64_MiB;       // logits that lie in memory at a time
  HiddenStoreOptions hidden;            // states on disk: step outside, whatever fits
  HostAttention host_attention;         // with a device, where cache pages are attended on the host
  bool merge_steps = false;             // attention and MLP of a layer are one step: fewer hand-overs, more weights held
  std::span<std::byte> scratch, head;   // memory for these, of scratch_bytes and head_bytes; empty: buffers of its own. With a device its
  std::span<std::byte> host_logits;     // memory, and pinned memory for the logits of head_rows, or tokens drawn from them
  int64_t tokens_at_once = 512;         // that linear gets together, of small micro-batches: it is faster with more
  size_t blocks_at_once = 16;           // row blocks of about 2 MiB that linear gets together: it rearranges its input once for all of them
  DeviceQueue* device = nullptr;        // of the backend, where it runs on a device; outlives the sweep
  Trace* trace = nullptr;               // gets every stretch of computing: of an operation and a micro-batch, or of some row blocks and all
};

// Activations of a sweep in bytes: hidden states apart from the scratch they are worked on with
inline uint64_t hidden_bytes(const Program& p, int64_t n_tok) { return static_cast<uint64_t>(n_tok * p.width[0]) * sizeof(float); }
inline uint64_t scratch_bytes(const Program& p, int64_t n_tok) { return static_cast<uint64_t>(n_tok * (p.width[1] + p.width[2])) * sizeof(float); }
// Rows of logits that are computed together, of n_wanted
inline int64_t head_rows(const Program& p, int64_t n_wanted, uint64_t logits_bytes) {
  return std::clamp<int64_t>(static_cast<int64_t>(logits_bytes / (static_cast<uint64_t>(p.head_width[3]) * sizeof(float))), 1,
                             std::max<int64_t>(1, n_wanted));
}
inline uint64_t head_bytes(const Program& p, int64_t rows) {
  return static_cast<uint64_t>(rows * (p.head_width[0] + p.head_width[1] + p.head_width[2] + p.head_width[3])) * sizeof(float);
}

// Attention and MLP of a layer as one step
inline Program merged_layers(Program p) {
  std::vector<Step> steps;
  for (Step& s : p.body) {
    if (!steps.empty() && s.layer >= 0 && steps.back().layer == s.layer) {
      steps.back().name += " and " + s.name;
      steps.back().operations.insert(steps.back().operations.end(), s.operations.begin(), s.operations.end());
    } else {
      steps.push_back(std::move(s));
    }
  }
  p.body = std::move(steps);
  return p;
}

// Since the sweep was made. Bytes that attention and steps went through, wherever they lay
struct SweepStatistics {
  double compute_s = 0;       // operations; no waiting, no verifying
  uint64_t cache_bytes = 0;   // pages, whole ones
  uint64_t hidden_bytes = 0;
};

// One row of logits: token `token` of span `span` of micro-batch `micro_batch`. The values may be changed; they die with the call.
struct LogitsRow {
  size_t micro_batch = 0, span = 0;
  int64_t token = 0;
  std::span<float> values;       // [V]; empty where the next token was drawn
  std::optional<int32_t> drawn;  // which it is
};

// thread: one at a time
class Sweep {
 public:
  Sweep(const ModelDescription& model, const Backend& backend, Queue queue, WeightStream& weights, KvStore& cache, SweepOptions options = {})
      : model_(model),
        program_(options.merge_steps ? merged_layers(opt_program(model)) : opt_program(model)),
        backend_(backend),
        queue_{queue.pool, options.device ? options.device : queue.device},
        weights_(weights),
        cache_(cache),
        options_(std::move(options)),
        hidden_(options_.hidden),
        split_attention_(options_.host_attention),
        clock_(queue_.device, options_.trace) {
    for (const Step& step : program_.body) announce(step, body_);
    announce(program_.head, head_matrices_);
  }

  // Runs the plan, appends K and V (not committed), hands out wanted logits in the plan's order. With *stop set, throws
  // Fault::interrupted between two operations; what was appended is then worthless, and was never committed.
  void run(const SweepPlan& plan, const std::function<void(const LogitsRow&)>& on_logits, const std::atomic<bool>* stop = nullptr) {
    plan_ = &plan;
    stop_ = stop;
    if (plan.n_tok() == 0) return;
    clock_.forget();
    lay_out();
    find_wanted();
    const auto wanted = static_cast<int64_t>(wanted_.size());
    weights_.begin_sweep(
        {body_, head_matrices_, static_cast<size_t>(wanted == 0 ? 0 : div_up(wanted, head_rows(program_, wanted, options_.logits_bytes)))});
    cache_.begin_sweep(plan);
    try {
      for (const Step& step : program_.body) run_step(step, &step == program_.body.data());
    } catch (...) {
      cache_.abort_sweep();
      throw;
    }
    cache_.end_sweep();
    run_head(on_logits);
    if (queue_.device) queue_.device->device().synchronize_stream(queue_.device->stream());
    clock_.collect();
    stats_.compute_s = clock_.seconds();
  }

  const SweepStatistics& statistics() const { return stats_; }
  const HiddenStatistics& hidden_statistics() const { return hidden_.statistics(); }

 private:
  static void announce(const Step& step, std::vector<TensorRef>& matrices) {
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear) matrices.push_back(*op.weight);
  }

  // A micro-batch's rows: where its activations begin in each slot
  struct Rows {
    int32_t micro_batch = -1;  // -1: gathered from all
    int64_t n_tok = 0;
    std::array<float*, kSlots> slot{};
    std::array<int64_t, kSlots> width{};  // floats from row to row
    std::vector<int32_t> tokens, positions;
  };
  struct Wanted {
    LogitsRow logits;
    int64_t row = 0;  // of its micro-batch
    std::optional<Draw> draw;
  };

  static MatView<float> view(const Rows& r, Slot s, int64_t cols) {
    const auto i = static_cast<size_t>(s);
    return {r.slot[i], r.n_tok, cols, r.width[i]};
  }

  // Consecutive micro-batches as one, which they are in memory where the loop over blocks is outside; as many from the first one on as
  // have tokens_at_once together, at least one
  std::pair<Rows, size_t> joined(std::span<const Rows> batches) const {
    Rows all;
    all.slot = batches.front().slot, all.width = batches.front().width;
    size_t n = 0;
    for (; n < batches.size() && (n == 0 || all.n_tok + batches[n].n_tok <= options_.tokens_at_once); ++n) all.n_tok += batches[n].n_tok;
    return {all, n};
  }

  void lay_out() {
    const auto& w = program_.width;
    std::vector<int64_t> sizes;
    for (const MicroBatch& m : plan_->micro_batches) sizes.push_back(m.n_tok());
    const int64_t total = plan_->n_tok(), largest = *std::max_element(sizes.begin(), sizes.end());
    step_outside_ = !hidden_.all_in_memory() || (sizes.size() > 1 && scratch_bytes(program_, total) > options_.activation_bytes);
    hidden_.begin_sweep(sizes, w[0]);
    const int64_t scratch_tokens = step_outside_ ? largest : total;
    float* a = room(options_.scratch, scratch_, scratch_bytes(program_, scratch_tokens));
    float* b = a + scratch_tokens * w[1];

    rows_.resize(plan_->micro_batches.size());
    for (size_t i = 0; i < rows_.size(); ++i) {
      Rows& r = rows_[i];
      r.micro_batch = static_cast<int32_t>(i);
      r.n_tok = sizes[i];
      r.slot = {hidden_.all_in_memory() ? hidden_.acquire(i, true) : nullptr, a, b, nullptr};
      r.width = w;
      r.tokens.clear();
      r.positions.clear();
      for (const Span& s : plan_->micro_batches[i].spans) {
        FG_CHECK(s.first_position >= 0 && s.end() <= model_.max_positions, "positions [{}, {}) of {}", s.first_position, s.end(),
                 model_.max_positions);
        for (int64_t t = 0; t < s.n_tok(); ++t) {
          r.tokens.push_back(s.tokens[static_cast<size_t>(t)]);
          r.positions.push_back(static_cast<int32_t>(s.first_position + t + model_.position_offset));
        }
      }
      if (!step_outside_) a += r.n_tok * w[1], b += r.n_tok * w[2];
    }
  }

  // the rows whose logits are wanted, in the plan's order
  void find_wanted() {
    wanted_.clear();
    for (size_t m = 0; m < plan_->micro_batches.size(); ++m) {
      int64_t row = 0;
      for (size_t s = 0; s < plan_->micro_batches[m].spans.size(); ++s) {
        const Span& span = plan_->micro_batches[m].spans[s];
        for (int64_t t = span.first_logits; t < span.n_tok(); ++t)
          wanted_.push_back({{m, s, t, {}, {}}, row + t, t + 1 == span.n_tok() ? span.draw : std::nullopt});
        row += span.n_tok();
      }
    }
  }

  float* room(std::span<std::byte> given, Buffer& own, size_t bytes) const {
    FG_CHECK((given.empty() && !queue_.device) || given.size() >= bytes, "{} bytes for activations of {}", given.size(), bytes);
    if (!given.empty()) return reinterpret_cast<float*>(given.data());
    if (own.size() < bytes) own = Buffer(bytes);
    return own.as<float>();
  }

  void run_step(const Step& step, bool first) {
    stats_.hidden_bytes += hidden_bytes(program_, plan_->n_tok());
    if (!step_outside_) {
      for (const Operation& op : step.operations) run_over(op, step.layer, rows_);
      return;
    }
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear) weights_.acquire(*op.weight, 0, weights_.n_blocks(*op.weight));
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].slot[0] = hidden_.acquire(i, first);
      for (const Operation& op : step.operations) run_over(op, step.layer, std::span(rows_).subspan(i, 1));
      hidden_.release(i, true);
    }
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear) weights_.release(*op.weight, 0, weights_.n_blocks(*op.weight));
  }

  // one operation over some micro-batches, in order
  void run_over(const Operation& op, int64_t layer, std::span<Rows> batches) {
    if (stop_ && stop_->load(std::memory_order_relaxed)) fail(Fault::interrupted, "stopped");
    switch (op.kind) {
      case Operation::Kind::linear: return run_linear(op, layer, batches);
      case Operation::Kind::norm:
        for (Rows& r : batches) run_norm(op, layer, r);
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

  // work() computes the operation and nothing else: waits for weights or pages lie outside and are recorded by who waits.
  template <typename Work>
  void compute(const Operation& op, int64_t layer, std::span<const Rows> batches, Work&& work) {
    clock_.time({TraceEvent::Kind::compute, op.name, static_cast<int32_t>(layer), batches.size() == 1 ? batches[0].micro_batch : -1, 0, 0, 0}, work);
  }

  void run_linear(const Operation& op, int64_t layer, std::span<Rows> batches) {
    const size_t blocks = weights_.n_blocks(*op.weight);
    const size_t at_once = std::clamp(weights_.at_once(), size_t{1}, options_.blocks_at_once);
    const uint64_t x_ids = new_x_ids(batches.size());  // inputs stay as they are until the last row block
    for (size_t first = 0; first < blocks;) {
      const size_t last = std::min(blocks, first + at_once);
      const WeightView w = weights_.acquire(*op.weight, first, last);
      compute(op, layer, batches, [&] {
        for (size_t i = 0; i < batches.size();) {
          const auto [r, n] = joined(batches.subspan(i));
          linear(backend_,
                 {view(r, op.in, w.cols), w, op.bias ? weights_.vector(*op.bias) : nullptr, view(r, op.out, w.rows), op.activation, op.accumulate,
                  x_ids + i},
                 queue_);
          i += n;
        }
      });
      weights_.release(*op.weight, first, last);
      cache_.advance();
      first = last;
    }
  }

  void run_norm(const Operation& op, int64_t layer, Rows& r) {
    compute(op, layer, {&r, 1}, [&] {
      layer_norm(backend_,
                 {view(r, op.in, model_.width), op.weight ? weights_.vector(*op.weight) : nullptr, op.bias ? weights_.vector(*op.bias) : nullptr,
                  view(r, op.out, model_.width), model_.norm_eps},
                 queue_);
    });
  }

  void run_embed(const Operation& op, Rows& r) {
    const auto& ids = op.kind == Operation::Kind::embed_tokens ? r.tokens : r.positions;
    const WeightView table = weights_.acquire_rows(*op.weight, ids);
    compute(op, -1, {&r, 1}, [&] { embed(backend_, {ids, table, view(r, op.out, table.cols), op.accumulate}, queue_); });
    weights_.release_rows(*op.weight);
  }

  // as many spans at a time as the cache brings in; results do not depend on it
  void run_attend(const Operation& op, int64_t layer, Rows& r) {
    const int64_t d = model_.head_dim, q_width = model_.n_heads * d, kv_width = model_.n_kv_heads * d;
    const MatView<float> qkv = view(r, op.in, q_width + 2 * kv_width);
    const auto page_bytes = static_cast<uint64_t>(cache_.layout().page_bytes());
    for (bool last = false; !last;) {
      const KvView& kv = cache_.acquire(layer, static_cast<size_t>(r.micro_batch));
      last = kv.last;
      for (const KvSpan& s : kv.spans)
        stats_.cache_bytes += 2 * static_cast<uint64_t>(div_up(s.first_position + s.n_tok, cache_.layout().page_tokens)) * page_bytes;
      compute(op, layer, {&r, 1}, [&] {
        kv_append(backend_, {qkv.columns(q_width, kv_width), qkv.columns(q_width + kv_width, kv_width), cache_.layout(), kv.spans}, queue_);
        const AttentionArgs all{.q = qkv.columns(0, q_width),
                                .y = view(r, op.out, q_width),
                                .n_heads = model_.n_heads,
                                .scale = 1.0f / std::sqrt(static_cast<float>(d)),
                                .layout = cache_.layout(),
                                .spans = kv.spans,
                                .ranges = {}};
        if (kv.host_ranges.empty()) {
          attention(backend_, all, queue_);
        } else {
          split_attention_(backend_, queue_, all, kv);
        }
      });
      cache_.release();
      weights_.advance();
    }
  }

  // The head runs over gathered rows, as many at a time as their logits fit.
  void run_head(const std::function<void(const LogitsRow&)>& on_logits) {
    if (wanted_.empty()) return;
    const auto& w = program_.head_width;
    const auto at_once = static_cast<size_t>(head_rows(program_, static_cast<int64_t>(wanted_.size()), options_.logits_bytes));
    float* const memory = room(options_.head, own_head_, head_bytes(program_, static_cast<int64_t>(at_once)));
    for (size_t first = 0; first < wanted_.size(); first += at_once) {
      const auto chunk = std::span(wanted_).subspan(first, std::min(at_once, wanted_.size() - first));
      Rows r;
      r.n_tok = static_cast<int64_t>(chunk.size());
      float* next = memory;
      r.width = w;
      for (size_t s = 0; s < kSlots; ++s) r.slot[s] = next, next += r.n_tok * w[s];
      for (size_t i = 0; i < chunk.size();) {
        const size_t begin = i, m = chunk[i].logits.micro_batch;
        r.tokens.clear();
        for (; i < chunk.size() && chunk[i].logits.micro_batch == m; ++i) r.tokens.push_back(static_cast<int32_t>(chunk[i].row));
        const RowBlock rows{reinterpret_cast<const std::byte*>(hidden_.acquire(m, false)), 0, rows_[m].n_tok};
        embed(backend_,  // which copies rows of f32
              {r.tokens,
               {DType::f32, rows_[m].n_tok, w[0], {&rows, 1}},
               view(r, Slot::hidden, w[0]).rows_from(static_cast<int64_t>(begin), static_cast<int64_t>(i - begin))},
              queue_);
        hidden_.release(m, false);
      }
      for (const Operation& op : program_.head.operations) run_over(op, -1, {&r, 1});
      draw(chunk, r);
      bring_logits(chunk, r);
      for (const Wanted& row : chunk) on_logits(row.logits);
    }
  }

  // Tokens that a device may draw come without their logits, unless it finds that it cannot.
  void draw(std::span<Wanted> chunk, const Rows& r) {
    if (!queue_.device || std::none_of(chunk.begin(), chunk.end(), [](const Wanted& w) { return w.draw.has_value(); })) return;
    draws_.clear();
    for (const Wanted& w : chunk) draws_.push_back(w.draw.value_or(Draw{}));
    const size_t n = chunk.size();
    auto* const there = reinterpret_cast<int32_t*>(r.slot[0]);  // its hidden states are done with
    clock_.time({TraceEvent::Kind::compute, "draw", -1, -1, 0, 0, 0},
                [&] { queue_.device->draw(view(r, Slot::logits, model_.vocab), draws_, there); });
    auto* const ids = pinned<int32_t>(n);
    bring(ids, there, n);
    queue_.device->device().synchronize_stream(queue_.device->stream());
    for (size_t i = 0; i < n; ++i)
      if (chunk[i].draw && ids[i] >= 0) chunk[i].logits.drawn = ids[i];
  }

  // Logits of the rows that have no token, from the device where they are there
  void bring_logits(std::span<Wanted> chunk, const Rows& r) {
    const auto v = static_cast<size_t>(model_.vocab);
    const float* const there = r.slot[3];
    float* const here = queue_.device ? pinned<float>(chunk.size() * v) : r.slot[3];
    for (size_t i = 0; i < chunk.size(); ++i) {
      if (chunk[i].logits.drawn) continue;
      if (queue_.device) bring(here + i * v, there + i * v, v);
      chunk[i].logits.values = {here + i * v, v};
    }
    if (queue_.device) queue_.device->device().synchronize_stream(queue_.device->stream());
  }

  template <typename T>
  T* pinned(size_t n) const {
    FG_CHECK(options_.host_logits.size() >= n * sizeof(T), "{} bytes for logits of {}", options_.host_logits.size(), n * sizeof(T));
    return reinterpret_cast<T*>(options_.host_logits.data());
  }
  template <typename T>
  void bring(T* here, const T* there, size_t n) {
    queue_.device->device().copy(reinterpret_cast<std::byte*>(here), reinterpret_cast<const std::byte*>(there), n * sizeof(T),
                                 queue_.device->stream());
  }

  const ModelDescription model_;
  const Program program_;
  const Backend& backend_;
  Queue queue_;
  WeightStream& weights_;
  KvStore& cache_;
  SweepOptions options_;

  const SweepPlan* plan_ = nullptr;
  const std::atomic<bool>* stop_ = nullptr;
  std::vector<TensorRef> body_, head_matrices_;  // in the order they are gone through
  HiddenStore hidden_;
  SplitAttention split_attention_;
  ComputeClock clock_;
  std::vector<Rows> rows_;
  std::vector<Wanted> wanted_;
  std::vector<Draw> draws_;
  Buffer scratch_, own_head_;
  bool step_outside_ = false;
  SweepStatistics stats_;
};

}  // namespace flexgen
