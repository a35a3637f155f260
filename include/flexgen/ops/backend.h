// SPDX-License-Identifier: Apache-2.0
// A backend: one function per operation, chosen once at run time and passed in. The checks run here, in front of every backend.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "flexgen/base/thread_pool.h"
#include "flexgen/ops/ops.h"

namespace flexgen {

// Where an operation runs. Host backends use the pool and have finished when they return. Backends of a device have then given work to
// a stream (ops/device_backend.h): operands lie in the device's memory, and what an argument itself points to in the host's (row blocks,
// ids, spans and their lists of pages) may go when the call returns.
struct Queue {
  ThreadPool* pool = nullptr;            // not null for host backends
  class DeviceQueue* device = nullptr;   // not null for backends of a device
};

struct Backend {
  std::string_view name;  // "ref", "portable", "avx2", "avx512"
  void (*linear)(const LinearArgs&, Queue);
  void (*layer_norm)(const LayerNormArgs&, Queue);
  void (*embed)(const EmbedArgs&, Queue);
  void (*kv_append)(const KvAppendArgs&, Queue);
  void (*attention)(const AttentionArgs&, Queue);
  void (*attention_partial)(const AttentionPartialArgs&, Queue);
  void (*attention_merge)(const AttentionMergeArgs&, Queue);
};

// The first of n numbers that no one else has, for LinearArgs::x_id. Whoever writes to an x takes a new one.
inline uint64_t new_x_ids(uint64_t n = 1) {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(n, std::memory_order_relaxed);
}

inline void linear(const Backend& b, const LinearArgs& a, Queue q) { check(a); b.linear(a, q); }
inline void layer_norm(const Backend& b, const LayerNormArgs& a, Queue q) { check(a); b.layer_norm(a, q); }
inline void embed(const Backend& b, const EmbedArgs& a, Queue q) { check(a); b.embed(a, q); }
inline void kv_append(const Backend& b, const KvAppendArgs& a, Queue q) { check(a); b.kv_append(a, q); }
inline void attention(const Backend& b, const AttentionArgs& a, Queue q) { check(a); b.attention(a, q); }
inline void attention_partial(const Backend& b, const AttentionPartialArgs& a, Queue q) { check(a); b.attention_partial(a, q); }
inline void attention_merge(const Backend& b, const AttentionMergeArgs& a, Queue q) { check(a); b.attention_merge(a, q); }

}  // namespace flexgen
