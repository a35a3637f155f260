// SPDX-License-Identifier: Apache-2.0
// See async_copy.h and device.h.
#include "kernels/emu/async_copy.h"

#include <fmt/format.h>

#include <cstring>

#include "kernels/emu/block.h"
#include "kernels/emu/device.h"

namespace flexgen::emu {
namespace {

constexpr int kFirstWithAsyncCopies = 80;

void land(AsyncCopy& copy) {
  if (copy.landed) return;
  std::memcpy(copy.to, copy.from, copy.valid_bytes);
  std::memset(static_cast<char*>(copy.to) + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
  copy.landed = true;
}

}  // namespace

void AsyncCopies::begin_block() {
  copies_.clear();
  first_ = 0;
  committed_ = 0;
}

void AsyncCopies::issue(const AsyncCopy& copy) {
  copies_.push_back(copy);
  copies_.back().group = committed_;
}

void copy_async(void* shared, const void* global, uint32_t bytes, bool valid, Location where) {
  const Inside inside;
  Block& b = inside.block;
  ++b.statistics.async_copies;
  const Site site{where};
  const auto address = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global);
  if (address % bytes != 0)
    b.stop(Problem::alignment, site, fmt::format("a copy of {} bytes from {} to {}: both must be multiples of {}", bytes, global, shared, bytes));
  if (!b.shared.contains(shared))
    b.stop(Problem::out_of_bounds, site, "the target of an asynchronous copy is not in shared memory. Give an address in an array of FG_SHARED");
  AsyncCopy copy{shared, global, bytes, valid ? bytes : 0, 0, false, where};
  if (b.race() && valid) b.access(global, bytes, Access::read, site);
  if (b.options().sm < kFirstWithAsyncCopies) {  // a plain load and store
    if (b.race()) b.access(shared, bytes, Access::write, site);
    return land(copy);
  }
  if (b.race()) {
    const size_t at = b.shared.offset(shared);
    if (b.shared.array_of(at, bytes) == nullptr) b.access_shared(shared, bytes, Access::write, site);  // says what is wrong
    b.report(b.races.copy_issued(b.thread_index(), at, bytes, site), Access::write, bytes, site);
    if (b.options().count) b.requests.shared(b.thread_index(), site.key(), true, at, bytes);
  }
  if (b.lands_early()) {
    land(copy);
  } else if (b.options().poison) {
    std::memset(shared, 0xFF, bytes);
  }
  b.thread().copies.issue(copy);
}

void commit_copies() {
  const Inside inside;
  Block& b = inside.block;
  if (b.options().sm >= kFirstWithAsyncCopies) b.thread().copies.commit();
}

void wait_copies(uint32_t groups) {
  const Inside inside;
  Block& b = inside.block;
  b.thread().copies.wait(groups, [&](AsyncCopy& copy) {
    land(copy);
    if (b.race()) b.races.copy_lands(b.thread_index(), b.shared.offset(copy.to), copy.bytes, {copy.where});
  });
}

}  // namespace flexgen::emu
