// SPDX-License-Identifier: Apache-2.0
// In which tier a full page of a KV cache should lie. Each tier gets its share, kept to within one page at any time, whatever pages come
// and go. Which of two neighbours goes where is chosen so that each sequence and each layer keeps its shares too: a layer or a sequence
// that lies on disk entirely would make the disk wait for the compute there, and the compute for the disk elsewhere.
//
// Quotas: with n pages, a tier of share s holds floor(s n) to ceil(s n) of them. At most one tier is below its floor when a page comes,
// and then takes it; else any tier below its ceiling may. Three tiers can go on so for ever: where two are left to choose from, the
// floors of both together never ask for more pages than there are to come.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <vector>

#include "flexgen/runtime/policy.h"
#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// thread: one at a time
class KvShare {
 public:
  KvShare(const TierShare& share, int64_t n_layers) : layers_(static_cast<size_t>(n_layers)) {
    const double disk = 1 - share.memory();
    share_ = {share.device, share.host, disk > kNothing ? disk : 0};  // what is left of a sum that should be 1 is none
  }

  void open(SequenceId id) { sequences_[id]; }
  void forget(SequenceId id) { sequences_.erase(id); }  // its pages may live on in others

  // the tier that the next n full pages, which are of that layer and sequence and stay together, should lie in
  Tier choose(int64_t layer, SequenceId id, int64_t n = 1) const {
    const auto needs = [&](Tier t, auto&& rule) {
      const double wanted = of(t) * static_cast<double>(total_.full + n);
      return rule(static_cast<double>(total_.at(t)), wanted);
    };
    const auto due = [n](double has, double wanted) { return has + static_cast<double>(n) <= wanted; };
    const auto allowed = [](double has, double wanted) { return has < wanted; };
    if (const auto t = neediest(layer, id, n, [&](Tier c) { return needs(c, due); }); t != kNone) return t;
    if (const auto t = neediest(layer, id, n, [&](Tier c) { return needs(c, allowed); }); t != kNone) return t;
    return neediest(layer, id, n, [](Tier) { return true; });
  }
  // the tier below the device that lacks such pages most, of those that have a share
  Tier choose_lower(int64_t layer, SequenceId id) const {
    const Tier t = neediest(layer, id, 1, [this](Tier c) { return c != Tier::device && of(c) > 0; });
    return t == kNone ? Tier::disk : t;
  }

  // a full page came (+1) or went (-1)
  void count(int64_t layer, SequenceId id, Tier tier, int64_t change) {
    total_.add(tier, change);
    layers_[static_cast<size_t>(layer)].add(tier, change);
    if (const auto s = sequences_.find(id); s != sequences_.end()) s->second.add(tier, change);
  }

  void move(int64_t layer, SequenceId id, Tier from, Tier to) {
    count(layer, id, from, -1);
    count(layer, id, to, 1);
  }

  int64_t full() const { return total_.full; }
  int64_t full(Tier t) const { return total_.at(t); }

 private:
  static constexpr double kNothing = 1e-9;
  static constexpr Tier kNone = static_cast<Tier>(kTiers);

  struct Count {
    int64_t full = 0;
    std::array<int64_t, kTiers> in{};

    int64_t at(Tier t) const { return in[static_cast<size_t>(t)]; }
    void add(Tier t, int64_t change) {
      full += change;
      in[static_cast<size_t>(t)] += change;
    }
  };

  double of(Tier t) const { return share_[static_cast<size_t>(t)]; }
  // pages that a tier lacks of its share once there are n pages more
  double missing(const Count& c, Tier t, int64_t n) const { return of(t) * static_cast<double>(c.full + n) - static_cast<double>(c.at(t)); }

  // of the tiers that may be chosen the one that layer and sequence together lack most; the faster one of equals
  template <typename May>
  Tier neediest(int64_t layer, SequenceId id, int64_t n, May&& may) const {
    const auto sequence = sequences_.find(id);
    Tier best = kNone;
    double most = -std::numeric_limits<double>::infinity();
    for (const Tier t : {Tier::device, Tier::host, Tier::disk}) {
      if (!may(t)) continue;
      const double lacks =
          missing(layers_[static_cast<size_t>(layer)], t, n) + (sequence == sequences_.end() ? 0.0 : missing(sequence->second, t, n));
      if (lacks > most) most = lacks, best = t;
    }
    return best;
  }

  std::array<double, kTiers> share_;
  Count total_;
  std::vector<Count> layers_;
  std::unordered_map<SequenceId, Count> sequences_;
};

}  // namespace flexgen
