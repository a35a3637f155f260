// SPDX-License-Identifier: Apache-2.0
// A batch for attention on the card: pages in shuffled places, as a cache that has been in use has them, and what each kernel needs to
// attend it.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/gpu/check_kernels.h"
#include "bench/gpu/session.h"
#include "flexgen/tensor/half.h"
#include "kernels/cuda/api/choose_attention.h"

namespace flexgen::bench {

struct BatchShape {
  int64_t sequences = 1, positions = 1, n_tok = 1;  // positions of each, those of its n_tok tokens included
  int64_t heads = 32, kv_heads = 32, head_dim = 128;
  int64_t page_tokens = 64;

  std::string name() const {
    const std::string tokens = n_tok > 1 ? fmt::format(" tokens={}", n_tok) : "";
    return fmt::format("B={} S={}{} H={}/{} D={}", sequences, positions, tokens, heads, kv_heads, head_dim);
  }
  int64_t tokens() const { return sequences * n_tok; }
  int64_t width() const { return heads * head_dim; }
  int64_t pages() const { return (positions + page_tokens - 1) / page_tokens; }  // of a sequence, for K
  size_t page_bytes() const { return static_cast<size_t>(kv_heads * page_tokens * head_dim) * 2; }
  double kv_bytes() const { return 4 * static_cast<double>(sequences * positions * kv_heads * head_dim); }  // f16, K and V
  // positions that the tokens see, together
  double seen() const { return static_cast<double>(tokens()) * (static_cast<double>(positions - n_tok) + static_cast<double>(n_tok + 1) / 2); }
  double flops() const { return 4 * seen() * static_cast<double>(width()); }
};

// `sets` batches of one shape, whose caches are apart
class AttentionBatch {
 public:
  AttentionBatch(Session& s, const BatchShape& shape, int sets)
      : shape_(shape), pool_(s.random(DType::f16, static_cast<int64_t>(n_pages(shape, sets) * shape.page_bytes() / 2), 1, 21)),
        q_(s.random(DType::f32, shape.tokens() * shape.width(), 8, 22)) {  // 8: some positions count more than others
    const size_t n = n_pages(shape, sets);
    std::vector<std::byte*> pages(n);
    for (size_t i = 0; i < n; ++i) pages[i] = pool_.data() + i * shape.page_bytes();
    for (size_t i = n - 1; i > 0; --i)
      std::swap(pages[i], pages[static_cast<size_t>((static_cast<double>(random_value(23, i)) + 1) / 2 * static_cast<double>(i + 1)) % (i + 1)]);
    tables_ = s.upload(pages);
    auto* const tables = reinterpret_cast<void* const*>(tables_.data());
    std::vector<cuda::PagedSpan> spans;
    for (int64_t i = 0; i < sets * shape.sequences; ++i)
      spans.push_back({shape.positions - shape.n_tok, static_cast<int32_t>(i % shape.sequences * shape.n_tok), static_cast<int32_t>(shape.n_tok),
                       tables + 2 * i * shape.pages(), tables + (2 * i + 1) * shape.pages()});
    spans_ = s.upload(spans);
  }

  const BatchShape& shape() const { return shape_; }
  const float* q() const { return reinterpret_cast<const float*>(q_.data()); }
  const cuda::PagedSpan* spans(int set) const { return reinterpret_cast<const cuda::PagedSpan*>(spans_.data()) + set * shape_.sequences; }
  cuda::PagedLayout layout() const {
    return {DType::f16, static_cast<int32_t>(shape_.kv_heads), static_cast<int32_t>(shape_.head_dim), static_cast<int32_t>(shape_.page_tokens)};
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_dim)); }
  ReferenceAttention reference(int set, float* y, int32_t token_step) const {
    return {q(), y, layout(), static_cast<int32_t>(shape_.heads), scale(), spans(set), static_cast<int32_t>(shape_.sequences),
            static_cast<int32_t>(shape_.n_tok), token_step};
  }

 private:
  static size_t n_pages(const BatchShape& s, int sets) { return static_cast<size_t>(2 * sets * s.sequences * s.pages()); }

  BatchShape shape_;
  DeviceMemory pool_, q_, tables_, spans_;
};

struct AttentionVariant {
  std::string name;
  const char* role;             // of a Row
  cuda::AttentionChoice choice;
};

// What choose_attention takes for the shape, what it takes in one order, and the other kernels that can attend it
inline std::vector<AttentionVariant> attention_variants(const Session& s, const BatchShape& shape) {
  const auto group = static_cast<int32_t>(shape.heads / shape.kv_heads), head_dim = static_cast<int32_t>(shape.head_dim);
  const cuda::AttentionShape attention{DType::f16, head_dim, group, shape.n_tok};
  const int64_t rows = shape.n_tok * group;
  const auto name = [](const cuda::AttentionChoice& c) {
    const cuda::PrefillTilesRow& tile = cuda::kPrefillTiles[static_cast<size_t>(c.tiles)];
    return c.tensor_cores ? fmt::format("prefill_{}x{}", tile.rows, tile.keys) : fmt::format("decode_{}", c.rows);
  };
  const cuda::AttentionChoice chosen = choose_attention(s.card(), attention, cuda::Arithmetic::fast);
  cuda::AttentionChoice other = choose_attention(s.card(), attention, cuda::Arithmetic::one_order);
  std::vector<AttentionVariant> all{{name(chosen), "chosen", chosen}, {name(other) + " in one order", "one_order", other}};
  other.split = cuda::Split::balanced;
  if (chosen.tensor_cores && rows <= 64) all.push_back({name(other), "variant", other});
  const int32_t head = cuda::prefill_head(head_dim);
  for (const cuda::PrefillTilesRow& t : cuda::kPrefillTiles) {
    const size_t shared = cuda::prefill_shared_bytes(head, t.rows, t.keys);
    if (head == 0 || shared > s.card().shared_bytes || (t.rows == 128 && head != 64) || (t.rows == 64 && t.keys == 64 && head > 128)) continue;
    if ((t.rows > 16 && rows <= 16) || (t.rows == 16 && rows > 256) || (chosen.tensor_cores && chosen.tiles == t.tiles)) continue;
    cuda::AttentionChoice c = chosen;
    c.tensor_cores = true, c.tiles = t.tiles, c.rows = t.rows, c.split = cuda::Split::balanced;
    c.resident = s.info().multiprocessors * std::max<int64_t>(1, static_cast<int64_t>(s.card().shared_bytes / shared));
    all.push_back({name(c), "variant", c});
  }
  return all;
}

// The plan of a choice, on the card
class PlannedBatch {
 public:
  PlannedBatch(Session& s, const AttentionBatch& batch, const cuda::AttentionChoice& choice) : batch_(batch), choice_(choice) {
    const BatchShape& shape = batch.shape();
    std::vector<cuda::PlannedSpan> spans;
    for (int64_t i = 0; i < shape.sequences; ++i)
      spans.push_back({shape.positions - shape.n_tok, static_cast<int32_t>(i * shape.n_tok), static_cast<int32_t>(shape.n_tok)});
    cuda::PlanRequest request;
    request.group = static_cast<int32_t>(shape.heads / shape.kv_heads), request.kv_heads = static_cast<int32_t>(shape.kv_heads);
    request.rows = choice.rows, request.resident = choice.resident, request.split = choice.split;
    request.most_part_rows = kMostPartBytes / (4 * (shape.width() + 2 * shape.heads));
    const cuda::AttentionPlan plan = plan_attention(spans, request);
    items_ = s.upload(plan.items), merges_ = s.upload(plan.merges);
    const auto part_rows = static_cast<size_t>(std::max<int64_t>(plan.part_rows, 1));
    o_ = s.memory(part_rows * static_cast<size_t>(shape.width()) * 4);
    maximum_ = s.memory(part_rows * static_cast<size_t>(shape.heads) * 4), sum_ = s.memory(maximum_.size());
    attention_.q = batch.q(), attention_.q_stride = attention_.y_stride = shape.width();
    attention_.layout = batch.layout(), attention_.n_heads = static_cast<int32_t>(shape.heads), attention_.scale = batch.scale();
    attention_.items = reinterpret_cast<const cuda::AttentionItem*>(items_.data()), attention_.n_items = static_cast<int32_t>(plan.items.size());
    attention_.part_per_block = choice.split == cuda::Split::every_block;
    const auto floats = [](const DeviceMemory& m) { return reinterpret_cast<float*>(m.data()); };
    attention_.parts = merge_.parts = {floats(o_), floats(maximum_), floats(sum_)};
    merge_.y_stride = shape.width(), merge_.n_heads = attention_.n_heads, merge_.head_dim = attention_.layout.head_dim;
    merge_.items = reinterpret_cast<const cuda::MergeItem*>(merges_.data()), merge_.n_items = static_cast<int32_t>(plan.merges.size());
    merge_.max_tok = plan.max_merge_tok;
  }

  int launch(int set, float* y, void* stream) const {
    cuda::AttentionArguments a = attention_;
    cuda::MergeArguments m = merge_;
    a.spans = batch_.spans(set), a.y = m.y = y;
    const int error = choice_.tensor_cores ? attention_prefill(a, choice_.tiles, stream) : attention_decode(a, choice_.rows, stream);
    return error ? error : attention_merge(m, stream);
  }

 private:
  static constexpr int64_t kMostPartBytes = int64_t{1} << 30;  // of the workspace

  const AttentionBatch& batch_;
  cuda::AttentionChoice choice_;
  DeviceMemory items_, merges_, o_, maximum_, sum_;
  cuda::AttentionArguments attention_;
  cuda::MergeArguments merge_;
};

}  // namespace flexgen::bench
