// SPDX-License-Identifier: Apache-2.0
// choose_attention() for every kind of card, without one: each shape gets a kernel that the card can run.
#include "kernels/cuda/api/choose_attention.h"

#include "support/catch.h"

using namespace flexgen;
using namespace flexgen::cuda;

namespace {

constexpr Card kT4{75, 40, 64 << 10}, kA100{80, 108, 163 << 10}, kRtx3090{86, 82, 99 << 10}, kRtx4090{89, 128, 99 << 10}, kH200{90, 132, 227 << 10};
constexpr Card kLater{120, 170, 99 << 10};
constexpr Card kEveryCard[] = {kT4, kA100, kRtx3090, kRtx4090, kH200, kLater};

}  // namespace

TEST_CASE("every shape of attention gets a kernel that the card can run", "[cuda]") {
  for (const Card& card : kEveryCard)
    for (DType cache : {DType::f16, DType::f32})
      for (int32_t head : {5, 8, 16, 32, 64, 72, 80, 96, 100, 112, 128, 200, 256})
        for (int32_t group : {1, 2, 4, 8, 16})
          for (int64_t most_tok : {1, 2, 3, 4, 5, 16, 17, 64, 2048})
            for (Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::one_order, Arithmetic::f32}) {
              CAPTURE(card.arch, name(cache), head, group, most_tok, static_cast<int>(arithmetic));
              const AttentionChoice c = choose_attention(card, {cache, head, group, most_tok}, arithmetic);
              const int64_t a_multiprocessor = c.resident / card.multiprocessors;
              CHECK(c.resident % card.multiprocessors == 0);
              const PrefillTilesRow& tile = kPrefillTiles[static_cast<size_t>(c.tiles)];
              const size_t shared =
                  c.tensor_cores ? prefill_shared_bytes(prefill_head(head), c.rows, tile.keys) : decode_shared_bytes(head, size_of(cache), c.rows);
              CHECK(a_multiprocessor >= 1);
              CHECK(shared <= card.shared_bytes);
              CHECK(static_cast<size_t>(a_multiprocessor) * (shared + 1024) <= card.shared_bytes + 1024);
              if (c.tensor_cores) {
                CHECK((cache == DType::f16 && arithmetic == Arithmetic::fast && prefill_head(head) != 0));
                CHECK((tile.tiles == c.tiles && tile.rows == c.rows));
                CHECK(!(c.rows == 128 && prefill_head(head) > 64));  // which are not compiled
                CHECK(!(c.tiles == PrefillTiles::rows_64_keys_64 && prefill_head(head) > 128));
                CHECK(a_multiprocessor * c.rows * 2 <= 256);  // threads
                CHECK(c.split == Split::balanced);
              } else {
                CHECK(c.rows == decode_rows(most_tok * group));
                CHECK(a_multiprocessor <= kDecodeBlocks);
                CHECK((c.split == Split::balanced) == (cache == DType::f16 && arithmetic == Arithmetic::fast));
              }
            }
}

TEST_CASE("what is chosen for the attention that matters", "[cuda]") {
  const auto tiles = [](const Card& card, const AttentionShape& shape) {
    const AttentionChoice c = choose_attention(card, shape, Arithmetic::fast);
    REQUIRE(c.tensor_cores);
    return c.tiles;
  };
  for (const Card& card : kEveryCard) {
    CHECK(!choose_attention(card, {DType::f16, 128, 1, 1}, Arithmetic::fast).tensor_cores);       // decoding
    CHECK(tiles(card, {DType::f16, 128, 8, 1}) == PrefillTiles::rows_16_keys_32);                 // a group, whose cache is read once
    CHECK(!choose_attention(card, {DType::f32, 128, 1, 512}, Arithmetic::fast).tensor_cores);     // exact
    CHECK(!choose_attention(card, {DType::f16, 128, 1, 512}, Arithmetic::one_order).tensor_cores);
    CHECK(!choose_attention(card, {DType::f16, 100, 1, 512}, Arithmetic::fast).tensor_cores);     // rows of no whole 16 bytes
  }
  CHECK(tiles(kA100, {DType::f16, 64, 1, 512}) == PrefillTiles::rows_128_keys_64);
  CHECK(tiles(kRtx4090, {DType::f16, 64, 1, 512}) == PrefillTiles::rows_64_keys_64);
  CHECK(tiles(kH200, {DType::f16, 128, 1, 512}) == PrefillTiles::rows_64_keys_64);
  CHECK(tiles(kRtx3090, {DType::f16, 128, 1, 512}) == PrefillTiles::rows_64_keys_32);
  CHECK(tiles(kT4, {DType::f16, 128, 1, 512}) == PrefillTiles::rows_64_keys_32);
  CHECK(tiles(kA100, {DType::f16, 256, 1, 512}) == PrefillTiles::rows_64_keys_32);
  CHECK(!choose_attention(kT4, {DType::f16, 256, 1, 512}, Arithmetic::fast).tensor_cores);  // no tile of 256 fits its 64 KiB
  CHECK(choose_attention(kH200, {DType::f16, 128, 1, 1}, Arithmetic::fast).resident == 132 * 8);
}
