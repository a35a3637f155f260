// SPDX-License-Identifier: Apache-2.0
// Byte-pair merging. A piece of text starts as one token a byte; then the adjacent pair with the lowest rank is merged, leftmost first
// on ties, until no pair is in the merge list. Short pieces, nearly all of them, use a flat array; long ones a heap, so that 100 kB
// without a space cost n log n. Same results as huggingface/tokenizers models/bpe/word.rs, merge_all.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace flexgen {

// Two token ids that become one; a merge's rank is its place in the list.
struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
};

class Bpe {
 public:
  Bpe() = default;

  // byte_ids: the token of each byte. merges: at most 2^31 - 1, ids checked by the caller. Of a pair that is listed twice the later
  // rank counts, as in HuggingFace's map.
  Bpe(const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges) : byte_ids_(byte_ids), results_(merges.size()) {
    slots_.resize(std::bit_ceil(std::max<size_t>(16, merges.size() * 2)));
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      results_[rank] = merges[rank].result;
      Slot& slot = slots_[find(merges[rank].left, merges[rank].right)];
      slot = {key(merges[rank].left, merges[rank].right), static_cast<uint32_t>(rank)};
    }
  }

  // Appends the tokens of piece (fewer than 2^31 bytes) to ids.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const {
    piece.size() <= kShort ? encode_short(piece, ids) : encode_long(piece, ids);
  }

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr uint64_t kEmpty = UINT64_MAX;
  static constexpr size_t kShort = 64;  // bytes; beyond that scanning for the minimum costs more than the heap

  struct Slot {
    uint64_t key = kEmpty;
    uint32_t rank = kNoRank;
  };

  static uint64_t key(int32_t left, int32_t right) { return uint64_t(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right); }

  // the slot that holds the pair, or the empty one where it belongs: the table is never more than half full
  size_t find(int32_t left, int32_t right) const {
    const uint64_t k = key(left, right);
    uint64_t h = k * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio: Fibonacci hashing
    h ^= h >> 32;
    for (size_t i = h & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].key == k || slots_[i].key == kEmpty) return i;
  }
  uint32_t rank(int32_t left, int32_t right) const { return slots_[find(left, right)].rank; }

  void encode_short(std::string_view piece, std::vector<int32_t>& ids) const {
    std::array<int32_t, kShort> token;
    std::array<uint32_t, kShort> pair;  // rank of (token i, token i + 1); the last has none
    size_t n = piece.size();
    if (n == 0) return;
    for (size_t i = 0; i < n; ++i) token[i] = byte_ids_[static_cast<uint8_t>(piece[i])];
    for (size_t i = 0; i + 1 < n; ++i) pair[i] = rank(token[i], token[i + 1]);
    pair[n - 1] = kNoRank;
    while (n > 1) {
      const size_t best = static_cast<size_t>(std::min_element(pair.begin(), pair.begin() + n) - pair.begin());
      if (pair[best] == kNoRank) break;
      token[best] = results_[pair[best]];
      --n;
      for (size_t i = best + 1; i < n; ++i) token[i] = token[i + 1];
      for (size_t i = best; i < n; ++i) pair[i] = pair[i + 1];
      if (best > 0) pair[best - 1] = rank(token[best - 1], token[best]);
      if (best + 1 < n) pair[best] = rank(token[best], token[best + 1]);
    }
    ids.insert(ids.end(), token.begin(), token.begin() + n);
  }

  void encode_long(std::string_view piece, std::vector<int32_t>& ids) const {
    struct Node {
      int32_t token;
      uint32_t pair;  // rank of this node and the next, kNoRank once merged into another
      int32_t previous, next;  // -1 at the ends
    };
    const auto n = static_cast<int32_t>(piece.size());
    std::vector<Node> nodes(piece.size());
    for (int32_t i = 0; i < n; ++i)
      nodes[i] = {byte_ids_[static_cast<uint8_t>(piece[i])], kNoRank, i - 1, i + 1 < n ? i + 1 : -1};

    // rank above position: the lowest is the lowest rank, leftmost first. An entry whose rank is no longer its node's is out of date.
    std::vector<uint64_t> start;
    start.reserve(piece.size());
    const auto entry = [&](int32_t i) { return uint64_t(nodes[i].pair) << 32 | static_cast<uint32_t>(i); };
    for (int32_t i = 0; i + 1 < n; ++i) {
      nodes[i].pair = rank(nodes[i].token, nodes[i + 1].token);
      if (nodes[i].pair != kNoRank) start.push_back(entry(i));
    }
    std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>{}, std::move(start));
    const auto renew = [&](int32_t i) {
      nodes[i].pair = nodes[i].next < 0 ? kNoRank : rank(nodes[i].token, nodes[nodes[i].next].token);
      if (nodes[i].pair != kNoRank) queue.push(entry(i));
    };
    while (!queue.empty()) {
      const uint64_t top = queue.top();
      queue.pop();
      const auto i = static_cast<int32_t>(top & 0xFFFFFFFFu);
      if (nodes[i].pair != top >> 32) continue;
      const int32_t gone = nodes[i].next;
      nodes[i].token = results_[nodes[i].pair];
      nodes[i].next = nodes[gone].next;
      nodes[gone].pair = kNoRank;
      if (nodes[i].next >= 0) nodes[nodes[i].next].previous = i;
      renew(i);
      if (nodes[i].previous >= 0) renew(nodes[i].previous);
    }
    for (int32_t i = 0; i >= 0; i = nodes[i].next) ids.push_back(nodes[i].token);
  }

  std::array<int32_t, 256> byte_ids_{};
  std::vector<int32_t> results_;  // of each rank
  std::vector<Slot> slots_;       // open addressing, linear probing
};

}  // namespace flexgen
