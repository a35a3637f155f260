// SPDX-License-Identifier: Apache-2.0
// Which kernel attends a batch, and what a plan for it is to look like: a pure function of the card, the shape and the arithmetic asked
// for, read from a table. As in api/choose.h nothing was measured on a card yet; tiles follow FlashAttention-2's.
//
//   attention_decode   few rows a KV head, and everything where bits are to be the CPU's: f32 caches, Arithmetic::one_order and ::f32.
//                      Prompts too are attended in that order then, which is far from what the card could do.
//   attention_prefill  all else: f16 caches of Arithmetic::fast
#pragma once

#include "kernels/cuda/api/attention.h"
#include "kernels/cuda/api/choose.h"

namespace flexgen::cuda {

struct AttentionShape {
  DType cache = DType::f16;
  int32_t head_dim = 0;
  int32_t group = 1;      // query heads of a KV head
  int64_t most_tok = 1;   // of a span

  bool operator==(const AttentionShape&) const = default;
};

struct AttentionChoice {
  bool tensor_cores = false;                         // attention_prefill with `tiles`, else attention_decode with `rows`
  PrefillTiles tiles = PrefillTiles::rows_16_keys_32;
  int32_t rows = 1;                                  // of an item
  int64_t resident = 1;                              // blocks that the card runs at once
  Split split = Split::balanced;
};

// Tiles by what they are first taken for, the first row that matches. Two blocks of 64 rows run on a multiprocessor where their shared
// memory allows, which 64 positions of wider heads do not on sm_86 and sm_89.
struct PrefillChoiceRow {
  int64_t most_rows;  // a KV head, of the longest span; 0: any
  int32_t head;       // prefill_head(), at most
  uint32_t cards;     // by detail::card_bit
  PrefillTiles tiles;
};
inline constexpr PrefillChoiceRow kPrefillChoices[] = {
    {16, 256, detail::kAny, PrefillTiles::rows_16_keys_32},
    {0, 64, detail::kLarge, PrefillTiles::rows_128_keys_64},
    {0, 64, detail::kAny, PrefillTiles::rows_64_keys_64},
    {0, 128, detail::kLarge, PrefillTiles::rows_64_keys_64},
    {0, 256, detail::kAny, PrefillTiles::rows_64_keys_32},
};

AttentionChoice choose_attention(const Card& card, const AttentionShape& shape, Arithmetic arithmetic);

}  // namespace flexgen::cuda
