// SPDX-License-Identifier: Apache-2.0
// Operations on the CPU: cut into tasks of one instruction set's kernels and run on the pool. Which thread runs a task, and how an
// operation is cut, never changes a bit of its result.
//
// Scratch is per thread and kept for the thread's life, so that nothing is allocated in a steady state: at most 0.6 MiB a thread (more
// only for head sizes above 1024), and for the thread that calls linear one copy of x, T * K floats.
#pragma once

#include "flexgen/ops/backend.h"
#include "kernels/cpu/kernels.h"

namespace flexgen::cpu {

void linear(const Kernels& kernels, const LinearArgs& a, Queue queue);
void layer_norm(const Kernels& kernels, const LayerNormArgs& a, Queue queue);
void embed(const Kernels& kernels, const EmbedArgs& a, Queue queue);
void kv_append(const Kernels& kernels, const KvAppendArgs& a, Queue queue);
void attention(const Kernels& kernels, const AttentionArgs& a, Queue queue);
void attention_partial(const Kernels& kernels, const AttentionPartialArgs& a, Queue queue);
void attention_merge(const Kernels& kernels, const AttentionMergeArgs& a, Queue queue);

// K is an object with linkage whose value is read at the call, never during static initialisation
template <const Kernels& K>
constexpr Backend make_backend(std::string_view name) {
  return {name,
          [](const LinearArgs& a, Queue q) { linear(K, a, q); },
          [](const LayerNormArgs& a, Queue q) { layer_norm(K, a, q); },
          [](const EmbedArgs& a, Queue q) { embed(K, a, q); },
          [](const KvAppendArgs& a, Queue q) { kv_append(K, a, q); },
          [](const AttentionArgs& a, Queue q) { attention(K, a, q); },
          [](const AttentionPartialArgs& a, Queue q) { attention_partial(K, a, q); },
          [](const AttentionMergeArgs& a, Queue q) { attention_merge(K, a, q); }};
}

}  // namespace flexgen::cpu
