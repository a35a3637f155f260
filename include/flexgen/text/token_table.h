// SPDX-License-Identifier: Apache-2.0
// Token id to bytes, and bytes to token id.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

class TokenTable {
 public:
  // The next id's bytes. Those of tokens that text may become whole, which are unlike each other, can be found again.
  void add(std::string_view bytes, bool can_be_found) {
    arena_.append(bytes);
    ends_.push_back(arena_.size());
    if (can_be_found) {
      ++n_found_;
      if (n_found_ * 2 > slots_.size()) grow();
      insert(size() - 1);
    }
    found_.push_back(can_be_found);
  }

  int32_t size() const { return static_cast<int32_t>(ends_.size()); }

  // empty for an id that has none, negative ones included
  std::string_view bytes(int32_t id) const {
    if (id < 0 || id >= size()) return {};
    const size_t begin = id == 0 ? 0 : ends_[static_cast<size_t>(id) - 1];
    return std::string_view(arena_).substr(begin, ends_[static_cast<size_t>(id)] - begin);
  }

  // the id of exactly these bytes, or -1
  int32_t find(std::string_view piece) const {
    if (slots_.empty()) return -1;
    const uint64_t hash = std::hash<std::string_view>{}(piece);
    for (size_t i = hash & (slots_.size() - 1); slots_[i].id >= 0; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].check == check(hash) && bytes(slots_[i].id) == piece) return slots_[i].id;
    return -1;
  }

 private:
  struct Slot {
    uint32_t check = 0;
    int32_t id = -1;
  };
  static uint32_t check(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  void insert(int32_t id) {
    const uint64_t hash = std::hash<std::string_view>{}(bytes(id));
    size_t i = hash & (slots_.size() - 1);
    while (slots_[i].id >= 0) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {check(hash), id};
  }
  void grow() {
    slots_.assign(std::max<size_t>(1024, slots_.size() * 2), {});
    for (size_t id = 0; id < found_.size(); ++id)
      if (found_[id]) insert(static_cast<int32_t>(id));
  }

  std::string arena_;          // all tokens' bytes, end to end
  std::vector<size_t> ends_;   // of each id's bytes in arena_
  std::vector<bool> found_;    // is in slots_
  size_t n_found_ = 0;
  std::vector<Slot> slots_;    // open addressing, linear probing, at most half full
};

}  // namespace flexgen
