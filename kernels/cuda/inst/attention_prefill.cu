// SPDX-License-Identifier: Apache-2.0
// Launch of attention on tensor cores, by head size and tile.
#include "kernels/cuda/src/attention_prefill.cuh"

#include "kernels/cuda/core/launch.h"

namespace flexgen::cuda {
namespace {

template <int kHead, int kRows, int kKeys>
int launch_of(const AttentionArguments& a, void* stream) {
  using Tile = PrefillTile<kHead, kRows, kKeys>;
  const dim3 grid(static_cast<unsigned>(a.n_items), static_cast<unsigned>(a.layout.n_heads));
  return launch(attention_prefill_kernel<Tile>, grid, dim3(Tile::kThreads), Tile::kSharedBytes, stream, a);
}

// Wider heads hold too many outputs in registers for 128 rows, and too many bytes for 64 positions
template <int kHead>
int launch_of(const AttentionArguments& a, PrefillTiles tiles, void* stream) {
  switch (tiles) {
    case PrefillTiles::rows_128_keys_64:
      if constexpr (kHead == 64) return launch_of<kHead, 128, 64>(a, stream);
      return kInvalidValue;
    case PrefillTiles::rows_64_keys_64:
      if constexpr (kHead <= 128) return launch_of<kHead, 64, 64>(a, stream);
      return kInvalidValue;
    case PrefillTiles::rows_64_keys_32: return launch_of<kHead, 64, 32>(a, stream);
    case PrefillTiles::rows_16_keys_32: return launch_of<kHead, 16, 32>(a, stream);
  }
  return kInvalidValue;
}

}  // namespace

int attention_prefill(const AttentionArguments& a, PrefillTiles tiles, void* stream) {
  if (a.n_items == 0) return 0;
  if (a.layout.dtype != DType::f16) return kInvalidValue;
  switch (prefill_head(a.layout.head_dim)) {
    case 64: return launch_of<64>(a, tiles, stream);
    case 80: return launch_of<80>(a, tiles, stream);
    case 96: return launch_of<96>(a, tiles, stream);
    case 128: return launch_of<128>(a, tiles, stream);
    case 256: return launch_of<256>(a, tiles, stream);
    default: return kInvalidValue;
  }
}

}  // namespace flexgen::cuda
