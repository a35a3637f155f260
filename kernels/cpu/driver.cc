// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/driver.h"

#include <algorithm>
#include <vector>

#include "flexgen/memory/buffer.h"

namespace flexgen::cpu {
namespace {

enum class Scratch { task, packed_x };

// This thread's scratch, 64-byte aligned, at least `bytes`; what it holds is undefined. It grows and is kept.
template <Scratch kind>
std::byte* scratch(size_t bytes) {
  thread_local Buffer buffer;
  if (buffer.size() < bytes) {
    buffer = Buffer();  // the old one first, so that both never exist together
    buffer = Buffer(bytes);
  }
  return buffer.data();
}

constexpr int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Consecutive runs of tasks, one run per item, and the item that a task belongs to. Kept per thread, for the same reason.
class TaskList {
 public:
  void clear() { ends_.clear(); }
  void add(int64_t n_tasks) { ends_.push_back((ends_.empty() ? 0 : ends_.back()) + n_tasks); }
  int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  struct Place { size_t item; int64_t task; };  // the item, and the task's index within it
  Place find(int64_t task) const {
    const auto item = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), task) - ends_.begin());
    return {item, task - (item == 0 ? 0 : ends_[item - 1])};
  }

 private:
  std::vector<int64_t> ends_;
};

// rows in chunks such that small operations stay on one thread: a hand-over costs microseconds
template <typename Fn>
void for_rows(ThreadPool& pool, int64_t rows, int64_t row_bytes, Fn&& fn) {
  const int64_t chunk = std::max<int64_t>(1, 64 * 1024 / std::max<int64_t>(1, row_bytes));
  pool.parallel_for(pieces(rows, chunk), [&](int64_t i, int) {
    for (int64_t r = i * chunk; r < std::min(rows, (i + 1) * chunk); ++r) fn(r);
  });
}

int64_t packed_width(int64_t k) { return pieces(k, kLanes) * kLanes; }

// x for linear_tile, chunk after chunk of `tokens` tokens. Each thread keeps the last one and finds it again by its x_id.
const float* packed_tokens(const Kernels& kernels, const LinearArgs& a, int64_t tokens, Queue queue) {
  struct Kept {
    const Kernels* kernels = nullptr;
    uint64_t x_id = 0;
    int64_t n_tok = 0, k = 0;
    const float* packed = nullptr;
  };
  thread_local Kept kept;
  const int64_t n_tok = a.x.rows, k = a.x.cols, width = packed_width(k), blocks = pieces(k, kBlockK);
  if (a.x_id != 0 && a.x_id == kept.x_id && kept.kernels == &kernels && kept.n_tok == n_tok && kept.k == k) return kept.packed;
  kept = {};
  float* const packed = reinterpret_cast<float*>(scratch<Scratch::packed_x>(static_cast<size_t>(n_tok * width) * sizeof(float)));
  for_rows(*queue.pool, pieces(n_tok, tokens) * blocks, tokens * kBlockK * 4, [&](int64_t i) {
    const int64_t tok = i / blocks * tokens, n = std::min(tokens, n_tok - tok), at = i % blocks * kBlockK;
    kernels.pack_tokens(a.x.row(tok) + at, a.x.stride, n, std::min(kBlockK, k - at), packed + tok * width + at * n);
  });
  kept = {&kernels, a.x_id, n_tok, k, packed};
  return packed;
}

}  // namespace

void linear(const Kernels& kernels, const LinearArgs& a, Queue queue) {
  const int64_t n_tok = a.x.rows, k = a.w.cols;
  if (n_tok == 0 || a.w.blocks.empty()) return;
  const bool few = n_tok <= kFewTokens;
  const int64_t chunks = few ? 1 : pieces(n_tok, kTileTokens), tokens = pieces(n_tok, chunks);  // a task's
  const float* const x = few ? a.x.data : packed_tokens(kernels, a, tokens, queue);
  // fewer rows a task where that gives every thread several tasks
  int64_t n_rows = 0;
  for (const RowBlock& b : a.w.blocks) n_rows += b.rows;
  int64_t rows = kTileRows;
  while (rows > kPanelRows && pieces(n_rows, rows) * chunks < 4 * queue.pool->size()) rows /= 2;

  thread_local TaskList kept;
  TaskList& tasks = kept;
  tasks.clear();
  for (const RowBlock& b : a.w.blocks) tasks.add(pieces(b.rows, rows));
  // all rows for a chunk of tokens, whose x stays in L2 from task to task, then for the next
  queue.pool->parallel_for(tasks.size() * chunks, [&](int64_t task, int) {
    const auto [item, index] = tasks.find(task % tasks.size());
    const RowBlock& block = a.w.blocks[item];
    const int64_t row = index * rows, tok = task / tasks.size() * tokens, n = block.first_row + row;
    LinearTask t;
    t.n_tok = std::min(tokens, n_tok - tok);
    t.x = x + tok * (few ? a.x.stride : packed_width(k));
    t.x_stride = a.x.stride;
    t.w = block.data + row * k * static_cast<int64_t>(size_of(a.w.dtype));
    t.dtype = a.w.dtype;
    t.n_rows = std::min(rows, block.rows - row);
    t.k = k;
    t.bias = a.bias ? a.bias + n : nullptr;
    t.y = a.y.row(tok) + n;
    t.y_stride = a.y.stride;
    t.activation = a.activation;
    t.accumulate = a.accumulate;
    if (few) return kernels.linear_few(t);
    t.scratch = scratch<Scratch::task>(linear_scratch(t.n_tok));
    kernels.linear_tile(t);
  });
}

void layer_norm(const Kernels& kernels, const LayerNormArgs& a, Queue queue) {
  for_rows(*queue.pool, a.x.rows, a.x.cols * 8,
           [&](int64_t t) { kernels.layer_norm_row(a.x.row(t), a.gamma, a.beta, a.y.row(t), a.x.cols, a.eps); });
}

void embed(const Kernels& kernels, const EmbedArgs& a, Queue queue) {
  const auto size = static_cast<int64_t>(size_of(a.table.dtype));
  for_rows(*queue.pool, a.y.rows, a.y.cols * 8, [&](int64_t t) {
    const int64_t id = a.ids[static_cast<size_t>(t)];
    const RowBlock& block = row_block(a.table, id);
    kernels.load_row(a.table.dtype, block.data + (id - block.first_row) * a.table.cols * size, a.y.row(t), a.y.cols, a.accumulate);
  });
}

void kv_append(const Kernels& kernels, const KvAppendArgs& a, Queue queue) {
  const KvLayout& l = a.layout;
  const auto size = static_cast<int64_t>(size_of(l.dtype));
  thread_local TaskList kept;
  TaskList& tokens = kept;
  tokens.clear();
  for (const KvSpan& s : a.spans) tokens.add(s.n_tok);
  for_rows(*queue.pool, tokens.size(), l.n_heads * l.head_dim * 8, [&](int64_t task) {
    const auto [item, i] = tokens.find(task);
    const KvSpan& s = a.spans[item];
    const int64_t position = s.first_position + i, page = position / l.page_tokens;
    for (int64_t h = 0; h < l.n_heads; ++h) {
      const int64_t at = (h * l.page_tokens + position % l.page_tokens) * l.head_dim * size;
      kernels.store_row(l.dtype, a.k.row(s.first_row + i) + h * l.head_dim, s.k_pages[page] + at, l.head_dim);
      kernels.store_row(l.dtype, a.v.row(s.first_row + i) + h * l.head_dim, s.v_pages[page] + at, l.head_dim);
    }
  });
}

namespace {

// Tokens of a span and their query heads in tasks; fill(task, row, head, span) adds where the result goes
template <typename Fill>
void run_attention(const Kernels& kernels, MatView<const float> q, int64_t n_heads, float scale, const KvLayout& l, std::span<const KvSpan> spans,
                   Queue queue, Fill&& fill) {
  const int64_t group = n_heads / l.n_heads;
  const int64_t tile = std::max<int64_t>(1, kAttentionRows / group);  // tokens
  thread_local TaskList kept;
  TaskList& tasks = kept;
  tasks.clear();
  for (const KvSpan& s : spans) tasks.add(pieces(s.n_tok, tile) * l.n_heads);
  queue.pool->parallel_for(tasks.size(), [&](int64_t task, int) {
    const auto [item, index] = tasks.find(task);
    const KvSpan& s = spans[item];
    const int64_t tiles = pieces(s.n_tok, tile), head = index / tiles;  // the tiles of a head one after another: its pages are in cache
    // the last tile first: it is the longest
    const int64_t first = (tiles - 1 - index % tiles) * tile;
    AttentionTask t;
    t.n_tok = std::min(tile, s.n_tok - first);
    t.q = q.row(s.first_row + first) + head * group * l.head_dim;
    t.q_stride = q.stride;
    t.group = group;
    t.first_position = s.first_position + first;
    t.end = t.first_position + t.n_tok;
    t.head_dim = l.head_dim;
    t.page_tokens = l.page_tokens;
    t.page_offset = head * l.page_tokens * l.head_dim;
    t.dtype = l.dtype;
    t.k_pages = s.k_pages;
    t.v_pages = s.v_pages;
    t.scale = scale;
    t.scratch = scratch<Scratch::task>(attention_scratch(t.n_tok * group, l.head_dim));
    fill(t, s.first_row + first, head * group, item);
    kernels.attention(t);
  });
}

}  // namespace

void attention(const Kernels& kernels, const AttentionArgs& a, Queue queue) {
  run_attention(kernels, a.q, a.n_heads, a.scale, a.layout, a.spans, queue, [&](AttentionTask& t, int64_t row, int64_t head, size_t span) {
    t.y = a.y.row(row) + head * a.layout.head_dim;
    t.y_stride = a.y.stride;
    t.before = a.before;
    t.before_row = row;
    t.first_head = head;
    if (a.ranges.empty()) return;
    t.begin = a.ranges[span].begin;
    t.end = std::min(t.end, a.ranges[span].end);
  });
}

void attention_partial(const Kernels& kernels, const AttentionPartialArgs& a, Queue queue) {
  run_attention(kernels, a.q, a.n_heads, a.scale, a.layout, a.spans, queue, [&](AttentionTask& t, int64_t row, int64_t head, size_t span) {
    t.y = a.o.row(row) + head * a.layout.head_dim;
    t.y_stride = a.o.stride;
    t.maximum = a.maximum.row(row) + head;
    t.sum = a.sum.row(row) + head;
    t.state_stride = a.maximum.stride;
    t.begin = a.ranges[span].begin;
    t.end = std::min(t.end, a.ranges[span].end);
  });
}

void attention_merge(const Kernels& kernels, const AttentionMergeArgs& a, Queue queue) {
  for_rows(*queue.pool, a.y.rows, a.y.cols * static_cast<int64_t>((a.parts.size() + 1) * sizeof(float)), [&](int64_t t) {
    kernels.merge_parts({a.parts.data(), static_cast<int64_t>(a.parts.size()), t, a.n_heads, a.head_dim, a.y.row(t)});
  });
}

}  // namespace flexgen::cpu
