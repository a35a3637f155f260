// SPDX-License-Identifier: Apache-2.0
// See wgmma.h and hopper.h. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
#include "kernels/emu/wgmma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/emu/block.h"
#include "kernels/emu/hopper.h"
#include "kernels/emu/number.h"

namespace flexgen::emu {
namespace {

constexpr uint32_t kFullWarp = 0xFFFFFFFFu;
constexpr int kFirstWithWgmma = 90, kDepth = 16, kRowsOfWarp = 16, kWarpsOfGroup = 4;
constexpr size_t kChunk = 16, kRowBytes = 128, kGroupBytes = 1024;  // of a tile with 128-byte swizzle: rows, and 8 of them

// Bits of a matrix descriptor
constexpr uint64_t kAddressMask = 0x3FFF, kSwizzle128 = 1;
constexpr int kStrideShift = 32, kSwizzleShift = 62;

size_t start_of(uint64_t descriptor) { return (descriptor & kAddressMask) << 4; }

// Bits 4 to 6 of an address are xored with its bits 7 to 9
size_t swizzled(size_t offset) { return offset ^ (offset >> 3 & 0x70); }

// Row r, k = 0 and 8 of an operand: where its two chunks of 16 bytes begin
size_t chunk_of(uint64_t descriptor, size_t row, size_t chunk) {
  return swizzled(start_of(descriptor) + row / 8 * kGroupBytes + row % 8 * kRowBytes + chunk * kChunk);
}

void check_descriptor(Block& b, uint64_t descriptor, Location where) {
  if (descriptor >> kSwizzleShift != kSwizzle128 || (descriptor >> kStrideShift & kAddressMask) != kGroupBytes >> 4)
    b.stop(Problem::unsupported, {where},
           fmt::format("matrix descriptor {:#x}: the emulator knows 128-byte swizzle and a stride of 1024. Use matrix_descriptor()", descriptor));
}

template <MatrixType kType>
void compute(const WarpgroupProduct& p, int warp_of_group, HiddenAccumulators& h, const std::byte* shared) {
  const auto n = static_cast<size_t>(p.n);
  const auto row_of = [&](uint64_t descriptor, size_t row, float* to) {
    for (size_t chunk = 0; chunk < 2; ++chunk) {
      uint16_t bits[8];
      std::memcpy(bits, shared + chunk_of(descriptor, row, chunk), kChunk);
      for (size_t i = 0; i < 8; ++i) to[chunk * 8 + i] = to_float<kType>(bits[i]);
    }
  };
  std::vector<float> b(n * kDepth), sum(n);
  for (size_t column = 0; column < n; ++column) {
    float values[kDepth];
    row_of(p.b, column, values);
    for (size_t k = 0; k < kDepth; ++k) b[k * n + column] = values[k];
  }
  for (size_t row = 0; row < kRowsOfWarp; ++row) {
    float a[kDepth];
    row_of(p.a, static_cast<size_t>(warp_of_group) * kRowsOfWarp + row, a);
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (size_t k = 0; k < kDepth; ++k)
      for (size_t column = 0; column < n; ++column) sum[column] += a[k] * b[k * n + column];
    for (size_t column = 0; column < n; ++column) {  // lane and register as in mma: rows of 8, pairs of columns
      const size_t lane = row % 8 * 4 + column % 8 / 2, element = column / 8 * 4 + row / 8 * 2 + column % 2;
      float& d = h.values[lane * (n / 2) + element];
      d = p.accumulate ? d + sum[column] : sum[column];
    }
  }
}

HiddenAccumulators& hidden_of(WarpgroupQueue& queue, const WarpgroupProduct& p) {
  const auto found = std::find_if(queue.hidden.begin(), queue.hidden.end(), [&](const HiddenAccumulators& h) { return h.d == p.d; });
  if (found != queue.hidden.end()) return *found;
  return queue.hidden.emplace_back();
}

void hide(WarpgroupQueue& queue, const WarpgroupProduct& p, bool poison) {
  HiddenAccumulators& h = hidden_of(queue, p);
  ++h.products;
  if (h.products > 1) return;
  const auto count = static_cast<size_t>(p.n / 2);
  h.d = p.d;
  h.n = p.n;
  h.values.resize(32 * count);
  for (size_t lane = 0; lane < 32; ++lane) {
    std::copy_n(p.d[lane], count, h.values.begin() + static_cast<std::ptrdiff_t>(lane * count));
    if (poison) std::fill_n(p.d[lane], count, std::numeric_limits<float>::quiet_NaN());
  }
}

void run_product(Block& block, WarpgroupQueue& queue, WarpgroupProduct& p) {
  if (p.done) return;
  p.done = true;
  HiddenAccumulators& h = hidden_of(queue, p);
  const int warp = static_cast<int>(block.thread_index() / 32 % kWarpsOfGroup);
  const auto* shared = static_cast<const std::byte*>(block.shared.dynamic_array());
  if (p.type == MatrixType::bf16) {
    compute<MatrixType::bf16>(p, warp, h, shared);
  } else {
    compute<MatrixType::f16>(p, warp, h, shared);
  }
}

void show(WarpgroupQueue& queue, const WarpgroupProduct& p) {
  HiddenAccumulators& h = hidden_of(queue, p);
  if (--h.products > 0) return;
  const auto count = static_cast<size_t>(h.n / 2);
  for (size_t lane = 0; lane < 32; ++lane) std::copy_n(h.values.begin() + static_cast<std::ptrdiff_t>(lane * count), count, h.d[lane]);
  queue.hidden.erase(queue.hidden.begin() + (&h - queue.hidden.data()));
}

// In race mode: the operands' bytes are read by the warp's matrix unit until the product is waited for
void check_operand(Block& b, WarpgroupQueue& queue, uint64_t descriptor, size_t first_row, size_t rows, Location where) {
  for (size_t row = first_row; row < first_row + rows; ++row)
    for (size_t chunk = 0; chunk < 2; ++chunk) {
      const size_t at = chunk_of(descriptor, row, chunk);
      if (b.shared.array_of(at, kChunk) == nullptr)
        b.stop(Problem::out_of_bounds, {where},
               fmt::format("wgmma reads {}. Check the descriptor, and the bytes that the launch asks for", b.shared.describe(at, kChunk)));
      if (b.race())
        b.report(b.races.engine_reads(b.thread_index(), b.matrix_engine(), queue.issued, at, kChunk, {where}), Access::read, kChunk, {where});
    }
}

struct ProductArgument {
  float* d;
  MatrixType type;
  int n;
  uint64_t a, b;
  bool accumulate;
};

void require_full_warp(uint32_t lanes, Location where) {
  if (lanes != kFullWarp)
    running_block()->stop(Problem::divergence, {where},
                          fmt::format("wgmma with lanes {:#010x}: all threads of a group of four warps must execute it", lanes));
}

void issue_for_warp(void* const* arguments, uint32_t lanes, Location where) {
  require_full_warp(lanes, where);
  Block& block = *running_block();
  WarpgroupQueue& queue = block.warp().products;
  const auto& first = *static_cast<const ProductArgument*>(arguments[0]);
  WarpgroupProduct p;
  for (size_t lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const ProductArgument*>(arguments[lane]);
    if (x.a != first.a || x.b != first.b || x.accumulate != first.accumulate)
      block.stop(Problem::divergence, {where}, "lanes give wgmma different descriptors. They must be the same in all lanes");
    p.d[lane] = x.d;
  }
  check_descriptor(block, first.a, where);
  check_descriptor(block, first.b, where);
  if (!queue.fenced)
    block.stop(Problem::unfenced, {where},
               "wgmma without wgmma_fence() since its accumulators may have been written. Call it before the first wgmma and after each wait");
  p.n = first.n;
  p.type = first.type;
  p.a = first.a;
  p.b = first.b;
  p.accumulate = first.accumulate;
  p.where = where;
  ++queue.issued;
  const size_t warp = block.thread_index() / 32 % kWarpsOfGroup;
  check_operand(block, queue, p.a, warp * kRowsOfWarp, kRowsOfWarp, where);
  check_operand(block, queue, p.b, 0, static_cast<size_t>(p.n), where);
  hide(queue, p, block.options().poison);
  ++block.statistics.wgmma;
  queue.open.push_back(p);
}

void commit_for_warp(void* const*, uint32_t lanes, Location where) {
  require_full_warp(lanes, where);
  Block& block = *running_block();
  WarpgroupQueue& queue = block.warp().products;
  queue.groups.push_back(std::move(queue.open));
  queue.open.clear();
  const bool all_before = std::all_of(queue.groups.begin(), queue.groups.end(), [](const auto& g) { return g.empty() || g.back().done; });
  if (block.lands_early() && (all_before || queue.groups.size() == 1))
    for (WarpgroupProduct& p : queue.groups.back()) run_product(block, queue, p);
}

void wait_for_warp(Block& block, uint32_t groups) {
  WarpgroupQueue& queue = block.warp().products;
  while (queue.groups.size() > groups) {
    for (WarpgroupProduct& p : queue.groups.front()) {
      run_product(block, queue, p);
      show(queue, p);
      ++queue.finished;
    }
    queue.groups.pop_front();
    queue.fenced = false;
  }
}

}  // namespace

uint64_t matrix_descriptor(const void* shared, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (!b.shared.contains(shared) || b.shared.offset(shared) % kChunk != 0)
    b.stop(Problem::alignment, {where}, fmt::format("a matrix operand at {}: must be in shared memory, at a multiple of 16", shared));
  const uint64_t address = b.shared.offset(shared);
  return (address >> 4 & kAddressMask) | uint64_t{1} << 16 | uint64_t{kGroupBytes >> 4} << kStrideShift | kSwizzle128 << kSwizzleShift;
}

void wgmma_fence(Location where) {
  const Inside inside;
  inside.block.meet(
      WarpOperation::wgmma, 1, kFullWarp, nullptr,
      [](void* const*, uint32_t lanes, Location at) {
        require_full_warp(lanes, at);
        running_block()->warp().products.fenced = true;
      },
      where);
}

void wgmma_commit(Location where) {
  const Inside inside;
  inside.block.meet(WarpOperation::wgmma, 2, kFullWarp, nullptr, commit_for_warp, where);
}

void wgmma_wait(uint32_t groups, Location where) {
  const Inside inside;
  Block& b = inside.block;
  uint32_t left = groups;
  b.meet(
      WarpOperation::wgmma, 16 + static_cast<int>(groups), kFullWarp, &left,
      [](void* const* arguments, uint32_t lanes, Location at) {
        require_full_warp(lanes, at);
        wait_for_warp(*running_block(), *static_cast<const uint32_t*>(arguments[0]));
      },
      where);
  if (b.race()) b.races.clocks().take(b.thread_index(), b.matrix_engine(), b.warp().products.finished);
}

void wgmma(MatrixType type, int n, float* d, uint64_t a, uint64_t b, bool accumulate, Location where) {
  const Inside inside;
  Block& block = inside.block;
  if (block.options().sm < kFirstWithWgmma)
    block.stop(Problem::unsupported, {where}, fmt::format("wgmma on sm_{}, which lacks it. Use a card of sm_90", block.options().sm));
  ProductArgument argument{d, type, n, a, b, accumulate};
  block.meet(WarpOperation::wgmma, 1024 + n * 2 + (type == MatrixType::bf16), kFullWarp, &argument, issue_for_warp, where);
}

void set_registers(int registers, bool raise, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (registers % 8 != 0 || registers < 24 || registers > 256)
    b.stop(Problem::launch, {where}, fmt::format("setmaxnreg of {}: allowed are multiples of 8 from 24 to 256", registers));
  int value = raise ? registers : -registers;
  b.meet(
      WarpOperation::wgmma, 4096 + value, kFullWarp, &value,
      [](void* const* arguments, uint32_t lanes, Location at) {
        require_full_warp(lanes, at);
        running_block()->warp().products.registers = std::abs(*static_cast<const int*>(arguments[0]));
      },
      where);
}

}  // namespace flexgen::emu
