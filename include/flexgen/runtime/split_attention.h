// SPDX-License-Identifier: Apache-2.0
// Attention of a device over pages of which some are attended on the host: the first positions of each span (KvView::host_ranges). Queries
// come to the host, what they have seen there goes back, and the device merges it with what they have seen of its own pages.
//
//   at once    both attend at the same time; the parts are merged as two. Bits depend on where pages lie
//   in order   the host first, then the device from there on: the bits of `attention` over all positions (ops/attention_partial.h)
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/ops/device_backend.h"
#include "flexgen/runtime/kv_store.h"

namespace flexgen {

// Who attends on the host, and memory for what moves; all of it outlives whoever is given it
struct HostAttention {
  const Backend* backend = nullptr;
  ThreadPool* pool = nullptr;
  std::span<std::byte> pinned;         // of the host, SplitAttention::pinned_bytes
  std::span<std::byte> device_memory;  // SplitAttention::device_bytes
  bool in_order = false;
};

// thread: one at a time, which also gives the queue its work
class SplitAttention {
 public:
  // For n_tok tokens of a micro-batch. q_stride: floats from query to query
  static size_t pinned_bytes(int64_t n_tok, int64_t n_heads, int64_t head_dim, int64_t q_stride) {
    return q_room(static_cast<size_t>(n_tok * q_stride) * sizeof(float)) + part_bytes(n_tok, n_heads, head_dim);
  }
  static size_t device_bytes(int64_t n_tok, int64_t n_heads, int64_t head_dim) { return 2 * part_bytes(n_tok, n_heads, head_dim); }

  explicit SplitAttention(HostAttention host) : host_(host) {}

  // y of `whole`, whose spans are those of the view; K and V of their tokens have been appended. The tokens' rows follow one another.
  void operator()(const Backend& backend, Queue queue, const AttentionArgs& whole, const KvView& kv) {
    FG_CHECK(host_.backend && host_.pool && queue.device, "pages on the host, and nobody to attend to them");
    const int64_t first = kv.spans.front().first_row, n = kv.spans.back().first_row + kv.spans.back().n_tok - first, d = whole.layout.head_dim;
    rebase(kv.spans, first, spans_);
    rebase(kv.host_spans, first, host_spans_);
    AttentionArgs a = whole;
    a.q = {whole.q.row(first), n, whole.q.cols, whole.q.stride};
    a.y = whole.y.rows_from(first, n);
    a.spans = spans_;
    a.ranges = kv.ranges;

    const size_t q_bytes = static_cast<size_t>((n - 1) * a.q.stride + a.q.cols) * sizeof(float), part = part_bytes(n, a.n_heads, d);
    FG_CHECK(q_room(q_bytes) + part <= host_.pinned.size() && 2 * part <= host_.device_memory.size(), "{} and {} bytes for {} tokens",
             host_.pinned.size(), host_.device_memory.size(), n);
    const auto q = host_.pinned.first(q_bytes), seen = host_.pinned.subspan(q_room(q_bytes), part), before = host_.device_memory.first(part);
    const AttentionPartials on_host = partials(seen, n, a.n_heads, d), from_host = partials(before, n, a.n_heads, d),
                            on_device = partials(host_.device_memory.subspan(part), n, a.n_heads, d);

    Device& device = queue.device->device();
    const Device::Stream stream = queue.device->stream();
    if (!q_there_) q_there_.emplace(device);
    device.copy(q.data(), reinterpret_cast<const std::byte*>(a.q.data), q_bytes, stream);
    device.record(*q_there_, stream);
    if (!host_.in_order)
      attention_partial(backend, {a.q, on_device.o, on_device.maximum, on_device.sum, a.n_heads, a.scale, a.layout, a.spans, a.ranges}, queue);
    device.synchronize(*q_there_);  // and so what the last call left to be copied from `seen` is there, too
    const MatView<const float> q_on_host{reinterpret_cast<const float*>(q.data()), n, a.q.cols, a.q.stride};
    attention_partial(*host_.backend,
                      {q_on_host, on_host.o, on_host.maximum, on_host.sum, a.n_heads, a.scale, a.layout, host_spans_, kv.host_ranges},
                      Queue{.pool = host_.pool});
    device.copy(before.data(), seen.data(), part, stream);
    if (host_.in_order) {
      a.before = &from_host;
      attention(backend, a, queue);
    } else {
      const AttentionPartials parts[] = {from_host, on_device};
      attention_merge(backend, {parts, a.y, a.n_heads, d}, queue);
    }
  }

 private:
  static size_t q_room(size_t bytes) { return round_up<size_t>(bytes, 256); }
  static size_t part_bytes(int64_t n_tok, int64_t n_heads, int64_t head_dim) {
    return round_up<size_t>(static_cast<size_t>(n_tok * n_heads * (head_dim + 2)) * sizeof(float), 256);
  }
  // o, then maximum, then sum
  static AttentionPartials partials(std::span<std::byte> memory, int64_t n_tok, int64_t n_heads, int64_t head_dim) {
    float* const o = reinterpret_cast<float*>(memory.data());
    float* const maximum = o + n_tok * n_heads * head_dim;
    return {{o, n_tok, n_heads * head_dim, n_heads * head_dim},
            {maximum, n_tok, n_heads, n_heads},
            {maximum + n_tok * n_heads, n_tok, n_heads, n_heads}};
  }
  static void rebase(std::span<const KvSpan> spans, int64_t first_row, std::vector<KvSpan>& to) {
    to.assign(spans.begin(), spans.end());
    for (KvSpan& s : to) s.first_row -= first_row;
  }

  HostAttention host_;
  std::optional<DeviceEvent> q_there_;
  std::vector<KvSpan> spans_, host_spans_;
};

}  // namespace flexgen
