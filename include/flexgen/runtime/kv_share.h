// SPDX-License-Identifier: Apache-2.0
// Which full pages of a KV cache stay in memory: a share of them, kept to within one page at any time, whatever pages come and go. Which
// of two neighbours stays is chosen so that each sequence and each layer keeps its share too: a layer or a sequence that lies on disk
// entirely would make the disk wait for the compute there, and the compute for the disk elsewhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// thread: one at a time
class KvShare {
 public:
  // share: 0 .. 1
  KvShare(double share, int64_t n_layers) : share_(share), layers_(static_cast<size_t>(n_layers)) {}

  void open(SequenceId id) { sequences_[id]; }
  void forget(SequenceId id) { sequences_.erase(id); }  // its pages may live on in others

  // whether the next full page, which is of that layer and sequence, should stay in memory
  bool stays(int64_t layer, SequenceId id) const {
    const double wanted = share_ * static_cast<double>(total_.full + 1);
    const auto memory = static_cast<double>(total_.memory);
    if (memory < std::floor(wanted)) return true;
    if (memory + 1 > std::ceil(wanted)) return false;
    const auto s = sequences_.find(id);
    return missing(layers_[static_cast<size_t>(layer)]) + (s == sequences_.end() ? 0.5 : missing(s->second)) >= 1;
  }

  // a full page came (+1) or went (-1)
  void count(int64_t layer, SequenceId id, bool in_memory, int64_t change) {
    total_.add(in_memory, change);
    layers_[static_cast<size_t>(layer)].add(in_memory, change);
    if (const auto s = sequences_.find(id); s != sequences_.end()) s->second.add(in_memory, change);
  }

  // a full page went to memory, or to disk
  void move(int64_t layer, SequenceId id, bool to_memory) {
    count(layer, id, !to_memory, -1);
    count(layer, id, to_memory, 1);
  }

  int64_t full() const { return total_.full; }
  int64_t in_memory() const { return total_.memory; }

 private:
  struct Count {
    int64_t full = 0, memory = 0;
    void add(bool in_memory, int64_t change) {
      full += change;
      if (in_memory) memory += change;
    }
  };

  // pages that memory lacks of its share once there is one page more
  double missing(const Count& c) const { return share_ * static_cast<double>(c.full + 1) - static_cast<double>(c.memory); }

  double share_;
  Count total_;
  std::vector<Count> layers_;
  std::unordered_map<SequenceId, Count> sequences_;
};

}  // namespace flexgen
