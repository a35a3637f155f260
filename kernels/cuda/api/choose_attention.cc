// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/choose_attention.h"

#include <algorithm>

namespace flexgen::cuda {
namespace {

constexpr int64_t kDecodeRows = 4;      // most of an item of attention_decode, which reads the cache once for them
constexpr int kPrefillThreads = 256;    // of a multiprocessor, for which attention_prefill's registers suffice
constexpr size_t kReserved = 1024;      // shared memory of each block that CUDA keeps for itself

// Blocks of a multiprocessor, of so many as registers suffice for
int64_t blocks(const Card& card, size_t shared_bytes, int64_t most) {
  return std::clamp<int64_t>(static_cast<int64_t>((card.shared_bytes + kReserved) / (shared_bytes + kReserved)), 1, most);
}

}  // namespace

AttentionChoice choose_attention(const Card& card, const AttentionShape& s, Arithmetic arithmetic) {
  const int64_t rows = s.most_tok * s.group;
  const int32_t head = prefill_head(s.head_dim);
  AttentionChoice c;
  if (arithmetic == Arithmetic::fast && s.cache == DType::f16 && head != 0 && rows > kDecodeRows) {
    for (const PrefillChoiceRow& row : kPrefillChoices) {
      const PrefillTilesRow& tile = kPrefillTiles[static_cast<size_t>(row.tiles)];
      const size_t shared = prefill_shared_bytes(head, tile.rows, tile.keys);
      if ((row.most_rows != 0 && rows > row.most_rows) || head > row.head || (row.cards & detail::card_bit(card.arch)) == 0 ||
          shared > card.shared_bytes)
        continue;
      c.tensor_cores = true;
      c.tiles = row.tiles;
      c.rows = tile.rows;
      c.resident = card.multiprocessors * blocks(card, shared, kPrefillThreads / (tile.rows * 2));
      return c;
    }
  }
  c.rows = decode_rows(rows);
  c.resident = card.multiprocessors * blocks(card, decode_shared_bytes(s.head_dim, size_of(s.cache), c.rows), kDecodeBlocks);
  if (arithmetic != Arithmetic::fast || s.cache == DType::f32) c.split = Split::every_block;
  return c;
}

}  // namespace flexgen::cuda
