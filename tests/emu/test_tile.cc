// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/core/tile.h"

#include <set>

#include "support/catch.h"

using namespace flexgen;

namespace {

template <int kColumns>
void check_swizzle() {
  CAPTURE(kColumns);
  constexpr int kChunks = kColumns / 8, kRows = 64;
  std::set<int> places;
  for (int row = 0; row < kRows; ++row)
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int at = cuda::swizzled<kColumns>(row, chunk);
      CHECK((at % 8 == 0 && at >= row * kColumns && at < (row + 1) * kColumns));
      CHECK(places.insert(at).second);
    }
  for (int first = 0; first < kRows; first += 8)
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      std::set<int> groups;  // of four banks: 16 bytes
      for (int row = first; row < first + 8; ++row) groups.insert(cuda::swizzled<kColumns>(row, chunk) / 8 % 8);
      CHECK(groups.size() == 8);
    }
}

}  // namespace

TEST_CASE("a swizzled tile keeps every chunk in its row, and 8 rows of a chunk in different banks", "[emu]") {
  check_swizzle<16>();
  check_swizzle<32>();
  check_swizzle<48>();
  check_swizzle<64>();
  check_swizzle<80>();
  check_swizzle<96>();
  check_swizzle<112>();
  check_swizzle<128>();
  check_swizzle<160>();
  check_swizzle<256>();
}

TEST_CASE("tiles of a band come column by column, and each once", "[emu]") {
  std::set<std::pair<int, int>> seen;
  for (int i = 0; i < 5 * 3; ++i) {
    const cuda::TileIndex t = cuda::tile_of<2>(i, 5, 3);
    CHECK((t.row >= 0 && t.row < 5 && t.column >= 0 && t.column < 3));
    CHECK(seen.insert({t.row, t.column}).second);
  }
  CHECK((cuda::tile_of<2>(1, 5, 3).row == 1 && cuda::tile_of<2>(1, 5, 3).column == 0));
  CHECK((cuda::tile_of<2>(2, 5, 3).row == 0 && cuda::tile_of<2>(2, 5, 3).column == 1));
  CHECK((cuda::tile_of<2>(12, 5, 3).row == 4 && cuda::tile_of<2>(12, 5, 3).column == 0));
}
