// SPDX-License-Identifier: Apache-2.0
// See global_memory.h.
#include "kernels/emu/global_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include "kernels/emu/emulator.h"

namespace flexgen::emu {
namespace {

std::mutex mutex;
std::shared_ptr<const GlobalBuffers>& current() {
  static std::shared_ptr<const GlobalBuffers> buffers = std::make_shared<GlobalBuffers>();
  return buffers;
}

// the first buffer that begins after p
GlobalBuffers::const_iterator after(const GlobalBuffers& buffers, uintptr_t p) {
  return std::upper_bound(buffers.begin(), buffers.end(), p, [](uintptr_t address, const GlobalBuffer& b) { return address < b.begin; });
}

}  // namespace

std::shared_ptr<const GlobalBuffers> global_buffers() {
  const std::lock_guard lock(mutex);
  return current();
}

void register_global(const void* data, size_t bytes, std::string name) {
  if (bytes == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const std::lock_guard lock(mutex);
  auto changed = std::make_shared<GlobalBuffers>(*current());
  const auto next = after(*changed, begin);
  const bool overlaps_next = next != changed->end() && begin + bytes > next->begin;
  const bool overlaps_previous = next != changed->begin() && std::prev(next)->begin + std::prev(next)->bytes > begin;
  if (overlaps_next || overlaps_previous) {
    const GlobalBuffer& other = overlaps_next ? *next : *std::prev(next);
    throw std::logic_error(
        fmt::format("global buffer {} of {} bytes overlaps {}, which is registered. Unregister that one first", name, bytes, other.name));
  }
  changed->insert(next, {begin, bytes, std::move(name)});
  current() = std::move(changed);
}

void unregister_global(const void* data) {
  const std::lock_guard lock(mutex);
  auto changed = std::make_shared<GlobalBuffers>(*current());
  std::erase_if(*changed, [&](const GlobalBuffer& b) { return b.begin == reinterpret_cast<uintptr_t>(data); });
  current() = std::move(changed);
}

const GlobalBuffer* buffer_of(const GlobalBuffers& buffers, uintptr_t begin, size_t bytes) {
  const auto next = after(buffers, begin);
  if (next == buffers.begin()) return nullptr;
  const GlobalBuffer& b = *std::prev(next);
  return begin + bytes <= b.begin + b.bytes ? &b : nullptr;
}

std::string describe_global(const GlobalBuffers& buffers, uintptr_t begin, size_t bytes) {
  const auto next = after(buffers, begin);
  const GlobalBuffer* before = next == buffers.begin() ? nullptr : &*std::prev(next);
  const GlobalBuffer* behind = next == buffers.end() ? nullptr : &*next;
  if (before == nullptr && behind == nullptr) return fmt::format("{} bytes of global memory, where no buffer is registered", bytes);
  if (before != nullptr && (behind == nullptr || begin - before->begin - before->bytes <= behind->begin - begin))
    return fmt::format("bytes [{}, {}) of {}, which has {}", begin - before->begin, begin - before->begin + bytes, before->name, before->bytes);
  return fmt::format("{} bytes that begin {} bytes before {}", bytes, behind->begin - begin, behind->name);
}

}  // namespace flexgen::emu
