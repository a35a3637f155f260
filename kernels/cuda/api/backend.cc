// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/backend.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/memory/device_text.h"
#include "kernels/cuda/api/argmax.h"
#include "kernels/cuda/api/argument_ring.h"
#include "kernels/cuda/api/choose_attention.h"
#include "kernels/cuda/api/embed.h"
#include "kernels/cuda/api/gemm.h"
#include "kernels/cuda/api/kv_append.h"
#include "kernels/cuda/api/layer_norm.h"
#include "kernels/cuda/api/sample.h"
#include "kernels/cuda/runtime/cublaslt.h"

namespace flexgen::cuda {
namespace {

constexpr size_t kAlignment = 256;                     // of the parts of a workspace
constexpr size_t kMostPartBytes = size_t{32} << 20;    // of what items of attention have seen, for calls of many tokens

Card card_of(const DeviceInfo& i) { return {i.arch, i.multiprocessors, i.shared_bytes}; }

[[noreturn]] void launch_failed(const DeviceInfo& i, const char* operation, int error) {
  struct Known { int error; std::string_view means; };  // of cudaError_t
  constexpr Known known[] = {{kInvalidValue, "no kernel for these operands"},
                             {2, "no memory"},
                             {9, "a grid or block that the card does not take"},
                             {98, "this program has no such kernel for the card"},
                             {209, "this program has no kernels for the card"},
                             {700, "an illegal address"},
                             {701, "the kernel needs more of the card than it has"},
                             {719, "an earlier kernel ended with an error"}};
  std::string_view means = "see cudaError_t";
  for (const Known& k : known)
    if (k.error == error) means = k.means;
  fail(Fault::gpu, "cuda:{} ({}): {}: the launch failed with CUDA error {} ({}). Start again, with --device cpu if this repeats", i.index,
       printable(i.name), operation, error, means);
}

// What items of attention have seen, of a token
size_t part_bytes(int64_t n_heads, int64_t head_dim) { return static_cast<size_t>(n_heads * (head_dim + 2)) * sizeof(float); }

// Memory of a queue
struct QueueBytes {
  size_t ring = 0;     // of the host's memory, and of the device's
  size_t scratch = 0;  // sums of linear and its rounded x, or parts of attention

  QueueBytes(const Card& card, const CudaBackendOptions& options, const DeviceDemand& d) {
    const auto tokens = static_cast<size_t>(d.tokens), sequences = static_cast<size_t>(d.sequences), pages = static_cast<size_t>(d.pages);
    scratch = linear_workspace(d.tokens, d.widest_rows, padded_cols(d.widest_cols), d.weights, options.arithmetic, options.cublaslt != nullptr);
    size_t arrays = std::max(ArgumentRing::array_bytes<void*>(tokens),  // rows of embed
                             ArgumentRing::array_bytes<Draw>(static_cast<size_t>(d.logits)));
    if (d.sequences > 0) {
      FG_CHECK(d.layout.n_heads > 0 && d.layout.head_dim > 0, "a demand of {} heads of {}", d.layout.n_heads, d.layout.head_dim);
      PlanRequest least;  // with the fewest rows where a span has more than an item
      least.group = static_cast<int32_t>(d.n_heads / d.layout.n_heads), least.kv_heads = static_cast<int32_t>(d.layout.n_heads);
      least.rows = 4, least.resident = int64_t{kDecodeBlocks} * card.multiprocessors;
      const auto items = static_cast<size_t>(most_items(d.tokens, d.sequences, least));
      arrays = std::max(arrays, ArgumentRing::array_bytes<PagedSpan>(sequences) + ArgumentRing::array_bytes<void*>(pages) +
                                    ArgumentRing::array_bytes<AttentionItem>(items) + ArgumentRing::array_bytes<MergeItem>(sequences));
      // Where each block of positions is a part, a token of each sequence has room for the parts of its whole context, however long, for as
      // many sequences as do not fill the card. That is 1/32 of their K and V of a layer in f16, times the group. Calls that find too
      // little room are not cut (plan_attention): they have more tokens or more sequences.
      const AttentionShape one{d.layout.dtype, static_cast<int32_t>(d.layout.head_dim), least.group};
      const bool every_block = choose_attention(card, one, options.arithmetic).split == Split::every_block;
      const int64_t few = every_block ? std::min(d.sequences, (least.resident + d.layout.n_heads - 1) / d.layout.n_heads) : 0;
      const int64_t blocks = d.pages / 2 * (d.layout.page_tokens / kAttentionBlock);
      const size_t part = part_bytes(d.n_heads, d.layout.head_dim);
      const size_t of_contexts = static_cast<size_t>((blocks * few + d.sequences - 1) / d.sequences) * part;
      scratch = std::max(scratch, std::min(static_cast<size_t>(d.tokens * blocks) * part, std::max(kMostPartBytes, of_contexts)));
    }
    ring = round_up(ArgumentRing::bytes(arrays), size_t{4096});
    scratch = round_up(scratch, kAlignment);
  }
  size_t workspace() const { return ring + scratch; }
};

PagedLayout paged_layout(const KvLayout& l) {
  FG_CHECK(l.page_tokens % kAttentionBlock == 0, "pages of {} tokens on a device", l.page_tokens);
  return {l.dtype, static_cast<int32_t>(l.n_heads), static_cast<int32_t>(l.head_dim), static_cast<int32_t>(l.page_tokens)};
}

class CudaQueue final : public DeviceQueue {
 public:
  CudaQueue(Device& device, const CudaBackendOptions& options, const DeviceDemand& demand, Device::Stream stream, std::span<std::byte> workspace,
            std::span<std::byte> arguments)
      : device_(device), card_(card_of(device.info())), options_(options), demand_(demand), stream_(stream),
        bytes_(card_, options, demand), scratch_(workspace.subspan(bytes_.ring, bytes_.scratch)),
        ring_(device, stream, arguments.first(bytes_.ring), workspace.first(bytes_.ring)) {}
  ~CudaQueue() override {
    try {
      device_.synchronize_stream(stream_);
    } catch (...) {  // an error of the card, which every later call has too
    }
  }

  Device& device() override { return device_; }
  Device::Stream stream() const override { return stream_; }
  ProductCounts products() const override { return products_; }

  void draw(const MatView<const float>& logits, std::span<const Draw> draws, int32_t* ids) override {
    const DeviceRange range(&device_, "draw");
    FG_CHECK(logits.rows <= demand_.logits && logits.rows == static_cast<int64_t>(draws.size()),
             "{} rows of logits and {} draws, the queue is for {}", logits.rows, draws.size(), demand_.logits);
    end_product();
    const auto rows = static_cast<int32_t>(logits.rows), vocabulary = static_cast<int32_t>(logits.cols);
    if (std::all_of(draws.begin(), draws.end(), [](const Draw& d) { return d == Draw{}; }))
      return launched("argmax", argmax({logits.data, logits.stride, ids, rows, vocabulary}, stream_));
    auto call = ring_.begin(ArgumentRing::array_bytes<Draw>(draws.size()));
    const Draw* const there = uploaded(call, draws);
    ring_.send(call);
    launched("sample", sample({logits.data, logits.stride, there, ids, rows, vocabulary}, stream_));
  }

  void linear(const LinearArgs& a) {
    const DeviceRange range(&device_, "linear");
    check_tokens(a.x.rows);
    FG_CHECK(a.w.rows <= demand_.widest_rows && a.w.cols <= demand_.widest_cols, "W {} x {}, the queue is for {} x {}", a.w.rows, a.w.cols,
             demand_.widest_rows, demand_.widest_cols);
    if (a.w.blocks.empty()) return;
    if (!continues(a)) x_ready_ = false;
    product_ = a;
    product_.w.blocks = {};
    next_row_ = a.w.blocks.back().first_row + a.w.blocks.back().rows;
    launched("linear", cuda::linear(card_,
                                    {.args = a,
                                     .arithmetic = options_.arithmetic,
                                     .workspace = scratch_,
                                     .cublaslt = options_.cublaslt.get(),
                                     .products = &products_,
                                     .x_ready = &x_ready_},
                                    stream_));
  }

  void layer_norm(const LayerNormArgs& a) {
    const DeviceRange range(&device_, "layer_norm");
    check_tokens(a.x.rows);
    end_product();
    NormArguments n;
    n.x = a.x.data, n.x_stride = a.x.stride;
    n.y = a.y.data, n.y_stride = a.y.stride;
    n.gamma = a.gamma, n.beta = a.beta, n.eps = a.eps;
    n.rows = static_cast<int32_t>(a.x.rows), n.cols = static_cast<int32_t>(a.x.cols);
    launched("layer_norm", cuda::layer_norm(n, stream_));
  }

  void embed(const EmbedArgs& a) {
    const DeviceRange range(&device_, "embed");
    check_tokens(a.y.rows);
    end_product();
    if (a.ids.empty()) return;
    auto call = ring_.begin(ArgumentRing::array_bytes<const void*>(a.ids.size()));
    const auto rows = call.array<const void*>(a.ids.size());
    const auto row_bytes = a.table.cols * static_cast<int64_t>(size_of(a.table.dtype));
    uintptr_t bits = 0;  // of all addresses
    for (size_t t = 0; t < a.ids.size(); ++t) {
      const RowBlock& block = row_block(a.table, a.ids[t]);
      rows.host[t] = block.data + (a.ids[t] - block.first_row) * row_bytes;
      bits |= reinterpret_cast<uintptr_t>(rows.host[t]);
    }
    ring_.send(call);
    EmbedArguments e;
    e.rows = rows.there, e.row_alignment = bits & -bits, e.dtype = a.table.dtype;
    e.y = a.y.data, e.y_stride = a.y.stride;
    e.n_tok = static_cast<int32_t>(a.y.rows), e.width = static_cast<int32_t>(a.y.cols), e.accumulate = a.accumulate;
    launched("embed", cuda::embed(e, stream_));
  }

  void kv_append(const KvAppendArgs& a) {
    const DeviceRange range(&device_, "kv_append");
    check_tokens(a.k.rows);
    end_product();
    KvAppendArguments k;
    k.k = a.k.data, k.k_stride = a.k.stride;
    k.v = a.v.data, k.v_stride = a.v.stride;
    k.layout = paged_layout(a.layout);
    k.n_spans = static_cast<int32_t>(a.spans.size());
    touched_.clear();
    for (const KvSpan& s : a.spans) {
      touched_.push_back({s.first_position, s.first_position + s.n_tok});
      k.max_tok = std::max(k.max_tok, static_cast<int32_t>(s.n_tok));
    }
    auto call = ring_.begin(span_bytes(a.layout, a.spans));
    k.spans = spans(call, a.layout, a.spans);
    ring_.send(call);
    launched("kv_append", cuda::kv_append(k, stream_));
  }

  void attention(const AttentionArgs& a) {
    const DeviceRange range(&device_, "attention");
    attend("attention", a, {});
  }

  void attention_partial(const AttentionPartialArgs& a) {
    const DeviceRange range(&device_, "attention_partial");
    const AttentionPartials seen{a.o, a.maximum, a.sum};
    attend("attention_partial", {a.q, a.o, a.n_heads, a.scale, a.layout, a.spans, a.ranges}, arrays(seen));
  }

  void attention_merge(const AttentionMergeArgs& a) {
    const DeviceRange range(&device_, "attention_merge");
    check_tokens(a.y.rows);
    end_product();
    FG_CHECK(a.parts.size() <= 1 + size_t{kMostAfter}, "parts to merge: found {}, allowed {}", a.parts.size(), 1 + kMostAfter);
    MergeArguments m;
    m.before = arrays(a.parts.front());
    for (const AttentionPartials& p : a.parts.subspan(1)) m.after[m.n_after++] = arrays(p);
    m.y = a.y.data, m.y_stride = a.y.stride;
    m.n_heads = static_cast<int32_t>(a.n_heads), m.head_dim = static_cast<int32_t>(a.head_dim);
    m.max_tok = static_cast<int32_t>(a.y.rows);
    launched("attention_merge", cuda::attention_merge(m, stream_));
  }

 private:
  struct Planned {  // for these spans
    AttentionShape shape;
    std::vector<PlannedSpan> spans;
    int32_t n_heads = 0;
    bool every_span = false;
    AttentionChoice choice;
    AttentionPlan plan;
  };
  static constexpr size_t kPlans = 32;  // micro-batches whose plans are kept for the next layer

  void launched(const char* operation, int error) const {
    if (error != 0) launch_failed(device_.info(), operation, error);
  }
  void check_tokens(int64_t rows) const { FG_CHECK(rows <= demand_.tokens, "{} tokens, the queue is for {}", rows, demand_.tokens); }

  // --- products in several calls

  bool continues(const LinearArgs& a) const {
    const LinearArgs& p = product_;
    return a.x.data == p.x.data && a.x.rows == p.x.rows && a.x.cols == p.x.cols && a.x.stride == p.x.stride && a.w.dtype == p.w.dtype &&
           a.w.rows == p.w.rows && a.bias == p.bias && a.y.data == p.y.data && a.y.stride == p.y.stride && a.activation == p.activation &&
           a.accumulate == p.accumulate && a.w.blocks.front().first_row >= next_row_;
  }
  void end_product() { product_ = {}; }

  // --- arguments

  // Pages of touched_ of a span: [first, last)
  static std::pair<int64_t, int64_t> pages(const KvLayout& l, const PositionRange& r) {
    return {r.begin / l.page_tokens, r.begin < r.end ? (r.end + l.page_tokens - 1) / l.page_tokens : r.begin / l.page_tokens};
  }
  size_t span_bytes(const KvLayout& l, std::span<const KvSpan> spans) const {
    FG_CHECK(static_cast<int64_t>(spans.size()) <= demand_.sequences, "{} spans, the queue is for {}", spans.size(), demand_.sequences);
    size_t n = 0;
    for (const PositionRange& r : touched_) n += static_cast<size_t>(pages(l, r).second - pages(l, r).first);
    return ArgumentRing::array_bytes<PagedSpan>(spans.size()) + ArgumentRing::array_bytes<void*>(2 * n);
  }
  // The spans with tables of those pages alone. A table's address is that of the sequence's page 0, wherever that would be.
  const PagedSpan* spans(ArgumentRing::Call& call, const KvLayout& l, std::span<const KvSpan> spans) {
    size_t n = 0;
    for (const PositionRange& r : touched_) n += static_cast<size_t>(pages(l, r).second - pages(l, r).first);
    const auto to = call.array<PagedSpan>(spans.size());
    const auto tables = call.array<void*>(2 * n);
    size_t at = 0;
    for (size_t i = 0; i < spans.size(); ++i) {
      const auto table = [&, range = pages(l, touched_[i])](std::byte* const* from) {
        const auto [first, last] = range;
        const auto page_0 = reinterpret_cast<uintptr_t>(tables.there + at) - static_cast<uintptr_t>(first) * sizeof(void*);
        for (int64_t p = first; p < last; ++p) tables.host[at++] = from[p];
        return reinterpret_cast<void* const*>(page_0);
      };
      const KvSpan& s = spans[i];
      to.host[i] = {s.first_position, static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.n_tok), table(s.k_pages), table(s.v_pages)};
    }
    return to.there;
  }

  PartArrays arrays(const AttentionPartials& p) const {
    FG_CHECK(p.o.stride == p.o.cols && p.maximum.stride == p.maximum.cols, "parts with strides of {} and {} for {} and {}", p.o.stride,
             p.maximum.stride, p.o.cols, p.maximum.cols);
    return {p.o.data, p.maximum.data, p.sum.data};
  }

  // --- attention

  const Planned& planned(const AttentionArgs& a) {
    asked_.shape = {a.layout.dtype, static_cast<int32_t>(a.layout.head_dim), static_cast<int32_t>(a.n_heads / a.layout.n_heads), 1};
    asked_.n_heads = static_cast<int32_t>(a.n_heads);
    asked_.every_span = !a.ranges.empty();
    asked_.spans.clear();
    for (size_t i = 0; i < a.spans.size(); ++i) {
      const KvSpan& s = a.spans[i];
      PlannedSpan p{s.first_position, static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.n_tok)};
      if (!a.ranges.empty()) p.begin = a.ranges[i].begin, p.end = a.ranges[i].end;
      asked_.spans.push_back(p);
      asked_.shape.most_tok = std::max(asked_.shape.most_tok, s.n_tok);
    }
    for (const Planned& p : plans_)
      if (p.shape == asked_.shape && p.n_heads == asked_.n_heads && p.every_span == asked_.every_span && p.spans == asked_.spans) return p;

    asked_.choice = choose_attention(card_, asked_.shape, options_.arithmetic);
    PlanRequest r;
    r.group = asked_.shape.group, r.kv_heads = static_cast<int32_t>(a.layout.n_heads);
    r.rows = asked_.choice.rows, r.resident = asked_.choice.resident, r.split = asked_.choice.split;
    r.every_span = asked_.every_span;
    r.most_part_rows = static_cast<int64_t>(scratch_.size() / part_bytes(a.n_heads, a.layout.head_dim));
    asked_.plan = plan_attention(asked_.spans, r);
    if (plans_.size() < kPlans) return plans_.emplace_back(asked_);
    next_plan_ = (next_plan_ + 1) % kPlans;
    return plans_[next_plan_] = asked_;
  }

  // whole: where what was seen goes, undivided; of nulls: everything goes to y, divided
  void attend(const char* operation, const AttentionArgs& a, const PartArrays& whole) {
    check_tokens(a.q.rows);
    end_product();
    if (a.spans.empty()) return;
    const Planned& p = planned(a);
    touched_.clear();
    for (const PlannedSpan& s : p.spans) touched_.push_back({s.begin, std::min(s.end, s.first_position + s.n_tok)});
    auto call = ring_.begin(span_bytes(a.layout, a.spans) + ArgumentRing::array_bytes<AttentionItem>(p.plan.items.size()) +
                            ArgumentRing::array_bytes<MergeItem>(p.plan.merges.size()));
    AttentionArguments args;
    args.q = a.q.data, args.q_stride = a.q.stride;
    args.y = a.y.data, args.y_stride = a.y.stride;
    args.layout = paged_layout(a.layout), args.n_heads = p.n_heads, args.scale = a.scale;
    args.spans = spans(call, a.layout, a.spans);
    args.items = uploaded(call, p.plan.items), args.n_items = static_cast<int32_t>(p.plan.items.size());
    args.part_per_block = p.choice.split == Split::every_block;
    const auto rows = p.plan.part_rows, width = a.n_heads * a.layout.head_dim;
    args.parts.o = reinterpret_cast<float*>(scratch_.data());
    args.parts.maximum = args.parts.o + rows * width;
    args.parts.sum = args.parts.maximum + rows * a.n_heads;
    if (a.before) args.before = arrays(*a.before);
    args.whole = whole;
    MergeArguments m;
    m.parts = args.parts, m.before = args.before;
    if (whole.o) m.merged = whole;
    else m.y = args.y, m.y_stride = args.y_stride;
    m.n_heads = args.n_heads, m.head_dim = args.layout.head_dim;
    m.items = uploaded(call, p.plan.merges), m.n_items = static_cast<int32_t>(p.plan.merges.size());
    m.max_tok = p.plan.max_merge_tok;
    ring_.send(call);
    launched(operation, p.choice.tensor_cores ? attention_prefill(args, p.choice.tiles, stream_) : attention_decode(args, p.choice.rows, stream_));
    launched(operation, cuda::attention_merge(m, stream_));
  }

  template <typename Values>
  static const typename Values::value_type* uploaded(ArgumentRing::Call& call, const Values& values) {
    const auto array = call.array<typename Values::value_type>(values.size());
    std::copy(values.begin(), values.end(), array.host);
    return array.there;
  }

  Device& device_;
  const Card card_;
  const CudaBackendOptions options_;
  const DeviceDemand demand_;
  const Device::Stream stream_;
  const QueueBytes bytes_;
  const std::span<std::byte> scratch_;
  ArgumentRing ring_;

  ProductCounts products_;
  LinearArgs product_;     // the last call was of this one, without its blocks; x null: there was another operation
  int64_t next_row_ = 0;   // of the product
  bool x_ready_ = false;   // its x lies rounded in the scratch

  std::vector<PositionRange> touched_;  // positions of each span that a call reads or writes
  std::vector<Planned> plans_;
  Planned asked_;
  size_t next_plan_ = 0;
};

CudaQueue& on(const Queue& q) {
  FG_CHECK(q.device != nullptr, "an operation of a device without its queue");
  return static_cast<CudaQueue&>(*q.device);
}

constexpr Backend kOperations{"cuda",
                              [](const LinearArgs& a, Queue q) { on(q).linear(a); },
                              [](const LayerNormArgs& a, Queue q) { on(q).layer_norm(a); },
                              [](const EmbedArgs& a, Queue q) { on(q).embed(a); },
                              [](const KvAppendArgs& a, Queue q) { on(q).kv_append(a); },
                              [](const AttentionArgs& a, Queue q) { on(q).attention(a); },
                              [](const AttentionPartialArgs& a, Queue q) { on(q).attention_partial(a); },
                              [](const AttentionMergeArgs& a, Queue q) { on(q).attention_merge(a); }};

class CudaBackend final : public DeviceBackend {
 public:
  CudaBackend(Device& device, const CudaBackendOptions& options) : device_(device), options_(options) {
    FG_CHECK(!options.cublaslt || options.arithmetic == Arithmetic::fast, "cuBLASLt keeps no order of sums");
    if (!options.cublaslt) return;
    if (const int status = options.cublaslt->start())
      fail(Fault::gpu, "{}: cuBLASLt {} does not start: {}. Use --gemm own", name_of(device.info()), options.cublaslt->version(),
           options.cublaslt->error(status));
  }

  Device& device() override { return device_; }
  const Backend& operations() const override { return kOperations; }
  size_t workspace_bytes(const DeviceDemand& d) const override { return bytes(d).workspace(); }
  size_t arguments_bytes(const DeviceDemand& d) const override { return bytes(d).ring; }
  std::unique_ptr<DeviceQueue> make_queue(const DeviceDemand& d, Device::Stream stream, std::span<std::byte> workspace,
                                          std::span<std::byte> arguments) override {
    const QueueBytes needed = bytes(d);
    FG_CHECK(workspace.size() >= needed.workspace() && arguments.size() >= needed.ring,
             "workspace of {} bytes, {} needed; arguments of {}, {} needed", workspace.size(), needed.workspace(), arguments.size(), needed.ring);
    FG_CHECK(reinterpret_cast<uintptr_t>(workspace.data()) % kAlignment == 0, "the workspace is not {}-byte aligned", kAlignment);
    return std::make_unique<CudaQueue>(device_, options_, d, stream, workspace, arguments);
  }

 private:
  QueueBytes bytes(const DeviceDemand& d) const { return {card_of(device_.info()), options_, d}; }

  Device& device_;
  const CudaBackendOptions options_;
};

}  // namespace

std::unique_ptr<DeviceBackend> make_cuda_backend(Device& device, const CudaBackendOptions& options) {
  return std::make_unique<CudaBackend>(device, options);
}

}  // namespace flexgen::cuda
