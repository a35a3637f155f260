// SPDX-License-Identifier: Apache-2.0
// A backend of a fake card that computes with one of the host: each operation is given to the stream and runs when the card gets to it.
// What arguments point to in the host's memory is copied at the call, so that the caller may reuse it at once. Operands have to lie in
// the card's memory and calls within the demand. Each operation leaves the workspace as poison, as a kernel might.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/base/thread_pool.h"
#include "flexgen/engine/sampler.h"
#include "flexgen/ops/device_backend.h"
#include "support/fake_device.h"

namespace flexgen::testing {

// Copies of what arguments point to, for as long as the operation needs them
class KeptArguments {
 public:
  template <typename T>
  std::span<const T> copy(std::span<const T> from) {
    auto v = std::make_shared<std::vector<T>>(from.begin(), from.end());
    owners_.push_back(v);
    return *v;
  }
  // Pages [first, last) of a list; nobody reads the others
  std::byte* const* pages(std::byte* const* from, int64_t first, int64_t last) {
    std::vector<std::byte*> all(static_cast<size_t>(last), nullptr);
    std::copy(from + first, from + last, all.begin() + first);
    return copy(std::span<std::byte* const>(all).subspan(0)).data();
  }

 private:
  std::vector<std::shared_ptr<void>> owners_;
};

class DeferredBackend final : public DeviceBackend {
 public:
  // host outlives this; every undrawn-th row of logits is left to the host, 0: none
  DeferredBackend(FakeDevice& device, const Backend& host, int64_t undrawn = 0) : device_(device), host_(host), undrawn_(undrawn) {}

  FakeDevice& device() override { return device_; }
  const Backend& operations() const override { return kOperations; }

  size_t workspace_bytes(const DeviceDemand& d) const override {
    return static_cast<size_t>(round_up<int64_t>(4 * d.tokens * (d.widest_cols + d.n_heads) + 256, 256));
  }
  size_t arguments_bytes(const DeviceDemand& d) const override {
    return static_cast<size_t>(round_up<int64_t>(8 * d.pages + 64 * d.sequences + 4 * d.tokens + 1, 4096));
  }
  std::unique_ptr<DeviceQueue> make_queue(const DeviceDemand& demand, Device::Stream stream, std::span<std::byte> workspace,
                                          std::span<std::byte> arguments) override {
    FG_CHECK(workspace.size() == workspace_bytes(demand) && device_.holds(workspace.data(), workspace.size()) &&
                 reinterpret_cast<uintptr_t>(workspace.data()) % 256 == 0,
             "workspace of {} bytes at {}, {} were asked for", workspace.size(), static_cast<void*>(workspace.data()), workspace_bytes(demand));
    FG_CHECK(arguments.size() == arguments_bytes(demand) && device_.pinned(arguments.data(), arguments.size()) &&
                 reinterpret_cast<uintptr_t>(arguments.data()) % 4096 == 0,
             "arguments of {} bytes at {}, {} were asked for", arguments.size(), static_cast<void*>(arguments.data()), arguments_bytes(demand));
    return std::make_unique<Work>(*this, demand, stream, workspace, arguments);
  }

 private:
  class Work final : public DeviceQueue {
   public:
    Work(DeferredBackend& backend, const DeviceDemand& demand, Device::Stream stream, std::span<std::byte> workspace, std::span<std::byte> arguments)
        : backend_(backend), demand_(demand), stream_(stream), workspace_(workspace), arguments_(arguments) {
      std::fill(arguments_.begin(), arguments_.end(), kMark);
    }
    ~Work() override {
      try {
        backend_.device_.synchronize_stream(stream_);
      } catch (...) {  // a card that is broken says so at the next call
      }
    }
    Device& device() override { return backend_.device_; }
    Device::Stream stream() const override { return stream_; }

    void draw(const MatView<const float>& logits, std::span<const Draw> draws, int32_t* ids) override {
      FG_CHECK(logits.rows <= demand_.logits && logits.rows == static_cast<int64_t>(draws.size()),
               "{} rows of logits and {} draws, {} were asked for", logits.rows, draws.size(), demand_.logits);
      check(logits, "logits"), check(ids, draws.size() * sizeof(int32_t), "ids");
      backend_.device_.run(stream_, [=, &b = backend_, draws = std::vector<Draw>(draws.begin(), draws.end())] {
        for (size_t r = 0; r < draws.size(); ++r)
          ids[r] = b.undrawn_ > 0 && ++b.rows_ % b.undrawn_ == 0
                       ? kNotDrawn
                       : drawn({logits.row(static_cast<int64_t>(r)), static_cast<size_t>(logits.cols)}, draws[r]);
      });
    }

    const DeviceDemand& demand() const { return demand_; }
    template <typename Args>
    void give(void (*Backend::*operation)(const Args&, Queue), const Args& args, KeptArguments kept) {
      const bool intact = std::all_of(arguments_.begin(), arguments_.end(), [](std::byte b) { return b == kMark; });
      FG_CHECK(intact, "somebody wrote into the queue's arguments");
      backend_.device_.run(stream_, [&b = backend_, workspace = workspace_, operation, args, kept = std::move(kept)] {
        std::memset(workspace.data(), 0xFF, workspace.size());
        (b.host_.*operation)(args, Queue{&b.pool_});
      });
    }

    template <typename T>
    void check(const MatView<T>& m, const char* what) const {
      FG_CHECK(m.rows <= demand_.tokens, "{} has {} tokens, {} were asked for", what, m.rows, demand_.tokens);
      if (m.rows * m.cols > 0) check(m.data, static_cast<size_t>((m.rows - 1) * m.stride + m.cols) * sizeof(T), what);
    }
    void check(const void* p, size_t bytes, const char* what) const {
      FG_CHECK(backend_.device_.holds(p, bytes), "{} of {} bytes at {} is not in the card's memory", what, bytes, p);
    }
    void check(const AttentionPartials& p) const { check(p.o, "o"), check(p.maximum, "maximum"), check(p.sum, "sum"); }

    WeightView copy(const WeightView& w, KeptArguments& kept) const {
      for (const RowBlock& b : w.blocks) check(b.data, static_cast<size_t>(b.rows * w.cols) * size_of(w.dtype), "row block");
      return {w.dtype, w.rows, w.cols, kept.copy(w.blocks)};
    }
    // with the pages of positions [begin(i), end(i)) of span i
    template <typename Range>
    std::span<const KvSpan> copy(const KvLayout& l, std::span<const KvSpan> spans, Range&& range, KeptArguments& kept) const {
      FG_CHECK(static_cast<int64_t>(spans.size()) <= demand_.sequences, "{} spans, {} were asked for", spans.size(), demand_.sequences);
      std::vector<KvSpan> copied(spans.begin(), spans.end());
      int64_t pages = 0;
      for (size_t i = 0; i < copied.size(); ++i) {
        const PositionRange r = range(i);
        const int64_t end = std::min(r.end, spans[i].first_position + spans[i].n_tok);
        const int64_t first = r.begin / l.page_tokens, last = std::max(first, (end + l.page_tokens - 1) / l.page_tokens);
        for (std::byte* const* KvSpan::* list : {&KvSpan::k_pages, &KvSpan::v_pages}) {
          for (int64_t p = first; p < last; ++p) check((spans[i].*list)[p], l.page_bytes(), "page");
          copied[i].*list = kept.pages(spans[i].*list, first, last);
        }
        pages += 2 * (last - first);
      }
      FG_CHECK(pages <= demand_.pages, "{} pages, {} were asked for", pages, demand_.pages);
      return kept.copy(std::span<const KvSpan>(copied));
    }

   private:
    static constexpr std::byte kMark{0x5C};

    DeferredBackend& backend_;
    DeviceDemand demand_;
    Device::Stream stream_;
    std::span<std::byte> workspace_, arguments_;
  };

  // By the code of the engine's sampler
  static int32_t drawn(std::span<const float> logits, const Draw& d) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float v) { return !std::isfinite(v); });
    if (bad != logits.end()) return ~static_cast<int32_t>(bad - logits.begin());
    if (d == Draw{}) return argmax(logits);
    GenerationSettings s;
    s.temperature = static_cast<double>(d.temperature), s.top_k = d.top_k, s.top_p = d.top_p, s.min_p = d.min_p;
    std::vector<float> scores(logits.begin(), logits.end());
    SamplerScratch scratch;
    weigh_candidates(s, scores, scratch);
    return draw_candidate(scratch.candidates, d.uniform);
  }

  static Work& work(Queue q) {
    FG_CHECK(q.device, "no queue of a device");
    return static_cast<Work&>(*q.device);
  }
  // All that a span's tokens see, or the ranges
  static auto seen(std::span<const KvSpan> spans, std::span<const PositionRange> ranges) {
    return [=](size_t i) { return ranges.empty() ? PositionRange{0, spans[i].first_position + spans[i].n_tok} : ranges[i]; };
  }

  static void linear(const LinearArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    LinearArgs a = given;
    to.check(a.x, "x"), to.check(a.y, "y");
    if (a.bias) to.check(a.bias, static_cast<size_t>(a.w.rows) * sizeof(float), "bias");
    FG_CHECK(a.w.rows <= to.demand().widest_rows && a.w.cols <= to.demand().widest_cols, "W {} x {}, {} x {} was asked for", a.w.rows, a.w.cols,
             to.demand().widest_rows, to.demand().widest_cols);
    a.w = to.copy(a.w, kept);
    to.give(&Backend::linear, a, std::move(kept));
  }
  static void layer_norm(const LayerNormArgs& a, Queue q) {
    Work& to = work(q);
    to.check(a.x, "x"), to.check(a.y, "y");
    for (const float* p : {a.gamma, a.beta})
      if (p) to.check(p, static_cast<size_t>(a.x.cols) * sizeof(float), "gamma or beta");
    to.give(&Backend::layer_norm, a, {});
  }
  static void embed(const EmbedArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    EmbedArgs a = given;
    to.check(a.y, "y");
    a.ids = kept.copy(a.ids);
    a.table = to.copy(a.table, kept);
    to.give(&Backend::embed, a, std::move(kept));
  }
  static void kv_append(const KvAppendArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    KvAppendArgs a = given;
    to.check(a.k, "k"), to.check(a.v, "v");
    const auto written = [s = a.spans](size_t i) { return PositionRange{s[i].first_position, s[i].first_position + s[i].n_tok}; };
    a.spans = to.copy(a.layout, a.spans, written, kept);
    to.give(&Backend::kv_append, a, std::move(kept));
  }
  static void attention(const AttentionArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    AttentionArgs a = given;
    to.check(a.q, "q"), to.check(a.y, "y");
    a.spans = to.copy(a.layout, a.spans, seen(a.spans, a.ranges), kept);
    a.ranges = kept.copy(a.ranges);
    if (a.before) {
      to.check(*a.before);
      a.before = kept.copy(std::span(a.before, 1)).data();
    }
    to.give(&Backend::attention, a, std::move(kept));
  }
  static void attention_partial(const AttentionPartialArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    AttentionPartialArgs a = given;
    to.check(a.q, "q"), to.check(AttentionPartials{a.o, a.maximum, a.sum});
    a.spans = to.copy(a.layout, a.spans, seen(a.spans, a.ranges), kept);
    a.ranges = kept.copy(a.ranges);
    to.give(&Backend::attention_partial, a, std::move(kept));
  }
  static void attention_merge(const AttentionMergeArgs& given, Queue q) {
    Work& to = work(q);
    KeptArguments kept;
    AttentionMergeArgs a = given;
    to.check(a.y, "y");
    for (const AttentionPartials& p : a.parts) to.check(p);
    a.parts = kept.copy(a.parts);
    to.give(&Backend::attention_merge, a, std::move(kept));
  }

  static constexpr Backend kOperations{"deferred", linear, layer_norm, embed, kv_append, attention, attention_partial, attention_merge};

  FakeDevice& device_;
  const Backend& host_;
  const int64_t undrawn_;
  int64_t rows_ = 0;    // of logits so far
  ThreadPool pool_{1};  // not the caller's, whose loops go on meanwhile
};

}  // namespace flexgen::testing
