// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/bpe.h"

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

namespace {

// By the definition: merge the pair of lowest rank, leftmost first, until none is left.
std::vector<int32_t> by_definition(const std::array<int32_t, 256>& bytes, const std::vector<Merge>& merges, std::string_view piece) {
  std::map<std::pair<int32_t, int32_t>, size_t> rank;
  for (size_t i = 0; i < merges.size(); ++i) rank[{merges[i].left, merges[i].right}] = i;
  std::vector<int32_t> ids;
  for (const char c : piece) ids.push_back(bytes[static_cast<uint8_t>(c)]);
  for (;;) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto r = rank.find({ids[i], ids[i + 1]}); r != rank.end() && r->second < best) best = r->second, at = i;
    if (best == merges.size()) return ids;
    ids[at] = merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

std::array<int32_t, 256> identity() {
  std::array<int32_t, 256> bytes{};
  for (int32_t b = 0; b < 256; ++b) bytes[static_cast<size_t>(b)] = b;
  return bytes;
}

std::vector<int32_t> encode(const Bpe& bpe, std::string_view piece) {
  std::vector<int32_t> ids{-7};  // what is there stays
  bpe.encode(piece, ids);
  REQUIRE(ids.front() == -7);
  ids.erase(ids.begin());
  return ids;
}

}  // namespace

TEST_CASE("merging follows rank, leftmost first", "[text]") {
  const std::vector<Merge> merges{{'b', 'c', 256}, {'a', 'b', 257}, {'a', 256, 258}, {'a', 'a', 259}};
  const Bpe bpe(identity(), merges);
  CHECK(encode(bpe, "").empty());
  CHECK(encode(bpe, "x") == std::vector<int32_t>{'x'});
  CHECK(encode(bpe, "ab") == std::vector<int32_t>{257});
  CHECK(encode(bpe, "abc") == std::vector<int32_t>{258});
  CHECK(encode(bpe, "aaa") == std::vector<int32_t>{259, 'a'});
  CHECK(encode(bpe, "aaaab") == std::vector<int32_t>{259, 'a', 257});
}

TEST_CASE("of a pair that is listed twice the later rank counts", "[text]") {
  const std::vector<Merge> merges{{'a', 'b', 256}, {'b', 'c', 257}, {'a', 'b', 256}};
  CHECK(encode(Bpe(identity(), merges), "abc") == std::vector<int32_t>{'a', 257});
}

TEST_CASE("no merges leave bytes", "[text]") { CHECK(encode(Bpe(identity(), {}), "ab") == std::vector<int32_t>{'a', 'b'}); }

// Lengths on both sides of where the heap takes over; random ranks, so that merges uncover pairs of lower rank
TEST_CASE("both ways of merging follow the definition", "[text]") {
  std::mt19937 random(5);
  for (int round = 0; round < 40; ++round) {
    std::vector<Merge> merges;
    std::map<int32_t, std::string> text;
    std::map<std::string, int32_t> known;
    for (const char c : {'a', 'b', 'c'}) text[c] = std::string(1, c), known[text[c]] = c;
    for (int32_t next = 256; merges.size() < 40;) {
      auto left = text.begin(), right = text.begin();
      std::advance(left, random() % text.size()), std::advance(right, random() % text.size());
      const std::string joined = left->second + right->second;
      const auto [at, is_new] = known.try_emplace(joined, next);
      merges.push_back({left->first, right->first, at->second});
      if (is_new) text[next++] = joined;
    }
    std::shuffle(merges.begin(), merges.end(), random);
    const Bpe bpe(identity(), merges);
    for (const size_t size : {1, 2, 3, 10, 63, 64, 65, 66, 200, 500}) {
      std::string piece;
      for (size_t i = 0; i < size; ++i) piece += "abc"[random() % (round % 2 ? 2 : 3)];
      CHECK(encode(bpe, piece) == by_definition(identity(), merges, piece));
    }
  }
}

TEST_CASE("a megabyte in one piece is merged", "[text]") {
  std::vector<Merge> merges;
  for (int32_t i = 0; i < 10; ++i) merges.push_back({i == 0 ? 'a' : 255 + i, i == 0 ? 'a' : 255 + i, 256 + i});
  const auto ids = encode(Bpe(identity(), merges), std::string(1'000'000, 'a'));
  CHECK(ids.size() == 976 + 2);  // 1,000,000 = 976 x 1,024 + 512 + 64
  CHECK(std::count(ids.begin(), ids.end(), 265) == 976);
}
