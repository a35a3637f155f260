// SPDX-License-Identifier: Apache-2.0
// Boxes of matrices between global and shared memory (PTX ISA, "cp.async.bulk.tensor" with two dimensions, "Swizzling modes"), and the
// entry points of mbarriers. See hopper.h.
#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

#include "kernels/emu/block.h"
#include "kernels/emu/hopper.h"

namespace flexgen::emu {
namespace {

constexpr int kFirstWithTma = 90;
constexpr size_t kChunk = 16, kSwizzledRow = 128;
constexpr uint64_t kMapMark = 0x464C584D41503246u;

struct EncodedMap {
  uint64_t mark;
  cuda::TensorTile tile;
};
static_assert(sizeof(EncodedMap) <= sizeof(cuda::TensorMap));

void require_sm90(Block& b, Location where, const char* what) {
  if (b.options().sm < kFirstWithTma)
    b.stop(Problem::unsupported, {where}, fmt::format("{} on sm_{}, which lacks it. Use a card from sm_90", what, b.options().sm));
}

// Where a byte of row `row` of a box lies. The swizzle works on addresses, so boxes begin at multiples of 1024.
size_t box_offset(const cuda::TensorTile& tile, size_t row, size_t byte) {
  const size_t row_bytes = size_t{tile.box_columns} * tile.element_bytes;
  return row * row_bytes + (tile.swizzled ? byte ^ (row % 8 * kChunk) : byte);
}

// fn(offset in the box, address in the matrix) for each element of the box; nullptr outside of the matrix
template <typename Fn>
void for_each_element(const BoxCopy& copy, Fn&& fn) {
  const cuda::TensorTile& t = copy.tile;
  for (uint32_t r = 0; r < t.box_rows; ++r)
    for (uint32_t c = 0; c < t.box_columns; ++c) {
      const int64_t row = copy.row + r, column = copy.column + c;
      const bool inside = row >= 0 && column >= 0 && row < static_cast<int64_t>(t.rows) && column < static_cast<int64_t>(t.columns);
      const uint64_t at = inside ? static_cast<uint64_t>(row) * t.row_bytes + static_cast<uint64_t>(column) * t.element_bytes : 0;
      fn(box_offset(t, r, size_t{c} * t.element_bytes), inside ? static_cast<std::byte*>(const_cast<void*>(t.data)) + at : nullptr);
    }
}

BoxCopy box_of(Block& b, const void* shared, const cuda::TensorMap* map, int column, int row, Access access, Location where) {
  EncodedMap encoded;
  std::memcpy(static_cast<void*>(&encoded), map, sizeof encoded);
  if (encoded.mark != kMapMark)
    b.stop(Problem::uninitialised, {where}, "a tensor map that emu::encode() did not make. Pass it by value as an argument of the kernel");
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0)
    b.stop(Problem::alignment, {where}, fmt::format("a tensor map at {}: must be a multiple of 64", static_cast<const void*>(map)));
  const cuda::TensorTile& t = encoded.tile;
  const size_t bytes = size_t{t.box_rows} * t.box_columns * t.element_bytes, alignment = t.swizzled ? 1024 : 128;
  if (!b.shared.contains(shared)) b.stop(Problem::out_of_bounds, {where}, "the box of a TMA copy is not in shared memory");
  const size_t offset = b.shared.offset(shared);
  if (offset % alignment != 0)
    b.stop(Problem::alignment, {where}, fmt::format("a box at {} of shared memory: must be a multiple of {}", offset, alignment));
  if (b.shared.array_of(offset, bytes) == nullptr)
    b.stop(Problem::out_of_bounds, {where},
           fmt::format("a TMA copy of {}. Check the index, and the bytes that the launch asks for", b.shared.describe(offset, bytes)));
  const BoxCopy copy{t, row, column, offset, bytes, where};
  if (b.race()) {
    const auto begin = reinterpret_cast<uintptr_t>(t.data);
    const uint64_t end = (t.rows - 1) * t.row_bytes + t.columns * t.element_bytes;
    if (buffer_of(*b.launch().buffers, begin, end) == nullptr)
      b.stop(Problem::out_of_bounds, {where},
             fmt::format("the matrix of a tensor map {} {}. Encode the sizes of the buffer", access == Access::read ? "is" : "that is written is",
                         describe_global(*b.launch().buffers, begin, end)));
  }
  return copy;
}

}  // namespace

cuda::TensorMap encode(const cuda::TensorTile& t) {
  const auto require = [](bool ok, const std::string& what) {
    if (!ok) throw std::invalid_argument("tensor map: " + what);
  };
  require(reinterpret_cast<uintptr_t>(t.data) % 16 == 0, fmt::format("data at {}: must be a multiple of 16", t.data));
  require(t.rows > 0 && t.columns > 0, "an empty matrix");
  require(t.element_bytes == 2 || t.element_bytes == 4, fmt::format("elements of {} bytes: allowed 2 and 4", t.element_bytes));
  require(t.row_bytes % 16 == 0 && t.row_bytes >= t.columns * t.element_bytes,
          fmt::format("{} bytes from row to row: must be a multiple of 16 that holds a row", t.row_bytes));
  require(t.box_rows >= 1 && t.box_rows <= 256 && t.box_columns >= 1 && t.box_columns <= 256,
          fmt::format("a box of {} x {}: allowed 1 to 256 each", t.box_rows, t.box_columns));
  const size_t row = size_t{t.box_columns} * t.element_bytes;
  require(t.swizzled ? row == kSwizzledRow : row % kChunk == 0,
          fmt::format("a row of {} bytes in the box: must be {}", row, t.swizzled ? "128 with this swizzle" : "a multiple of 16"));
  cuda::TensorMap map{};
  const EncodedMap encoded{kMapMark, t};
  std::memcpy(&map, &encoded, sizeof encoded);
  return map;
}

void copy_box_to_shared(const BoxCopy& copy, std::byte* shared) {
  for_each_element(copy, [&](size_t offset, const std::byte* from) {
    std::byte* to = shared + copy.offset + offset;
    if (from != nullptr) {
      std::memcpy(to, from, copy.tile.element_bytes);
    } else {
      std::memset(to, 0, copy.tile.element_bytes);
    }
  });
}

void copy_box_to_global(const BoxCopy& copy, const std::byte* shared) {
  for_each_element(copy, [&](size_t offset, std::byte* to) {
    if (to != nullptr) std::memcpy(to, shared + copy.offset + offset, copy.tile.element_bytes);
  });
}

void tma_load(void* shared, const cuda::TensorMap* map, int column, int row, uint64_t* barrier, Location where) {
  const Inside inside;
  Block& b = inside.block;
  require_sm90(b, where, "a TMA load");
  b.mbarriers.load(box_of(b, shared, map, column, row, Access::read, where), barrier);
}

void tma_store(const cuda::TensorMap* map, int column, int row, const void* shared, Location where) {
  const Inside inside;
  Block& b = inside.block;
  require_sm90(b, where, "a TMA store");
  const BoxCopy copy = box_of(b, shared, map, column, row, Access::write, where);
  ++b.statistics.tma_copies;
  TensorStores& stores = b.thread().stores;
  stores.open.push_back({copy, ++b.warp().stores});
  if (b.race())
    b.report(b.races.engine_reads(b.thread_index(), b.store_engine(), b.warp().stores, copy.offset, copy.bytes, {where}), Access::read, copy.bytes,
             {where});
  if (b.lands_early()) {
    copy_box_to_global(copy, static_cast<const std::byte*>(b.shared.dynamic_array()));
    stores.open.back().landed = true;
  }
}

void tma_store_commit() {
  const Inside inside;
  TensorStores& stores = inside.block.thread().stores;
  stores.groups.push_back(std::move(stores.open));
  stores.open.clear();
}

void tma_store_wait(uint32_t groups) {
  const Inside inside;
  Block& b = inside.block;
  TensorStores& stores = b.thread().stores;
  while (stores.groups.size() > groups) {
    for (const TensorStores::Store& s : stores.groups.front()) {
      if (!s.landed) copy_box_to_global(s.copy, static_cast<const std::byte*>(b.shared.dynamic_array()));
      if (b.race()) b.races.clocks().take(b.thread_index(), b.store_engine(), s.time);
    }
    stores.groups.pop_front();
  }
}

void barrier_init(uint64_t* barrier, uint32_t arrivals, Location where) {
  const Inside inside;
  require_sm90(inside.block, where, "an mbarrier with transactions");
  inside.block.mbarriers.init(barrier, arrivals, where);
}

void barrier_init_fence() { fence_async_proxy(); }

void barrier_arrive(uint64_t* barrier, uint32_t expected_bytes, Location where) {
  const Inside inside;
  inside.block.mbarriers.arrive(barrier, expected_bytes, where);
}

bool barrier_try_wait(uint64_t* barrier, uint32_t parity, Location where) {
  const Inside inside;
  return inside.block.mbarriers.try_wait(barrier, parity, where);
}

void fence_async_proxy() {
  const Inside inside;
  if (inside.block.race()) inside.block.races.clocks().fence(inside.block.thread_index());
}

}  // namespace flexgen::emu
