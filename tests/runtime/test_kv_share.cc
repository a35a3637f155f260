// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_share.h"

#include <array>
#include <cmath>
#include <deque>
#include <random>

#include "support/catch.h"

using namespace flexgen;

namespace {

struct Page {
  int64_t layer;
  SequenceId sequence;
  Tier tier;
};

constexpr int64_t kShareLayers = 6;
constexpr SequenceId kSequences = 8;

// where shares put the pages that decoding makes: layer by layer, in it sequence by sequence, K and V of each
struct Tally {
  Tally(const TierShare& s, int rounds, int64_t at_once = 1) : wanted{s.device, s.host, 1 - s.memory()}, share(s, kShareLayers) {
    for (SequenceId q = 0; q < kSequences; ++q) share.open(q);
    for (int r = 0; r < rounds; ++r)
      for (int64_t layer = 0; layer < kShareLayers; ++layer)
        for (SequenceId q = 0; q < kSequences; ++q)
          for (int64_t kind = 0; kind < 2; kind += at_once) add(layer, q, at_once);
  }
  void add(int64_t layer, SequenceId q, int64_t n) {
    const Tier t = share.choose(layer, q, n);
    for (int64_t i = 0; i < n; ++i) {
      pages.push_back({layer, q, t});
      share.count(layer, q, t, 1);
    }
    for (size_t i = 0; i < kTiers; ++i) {
      const double distance = std::abs(wanted[i] * static_cast<double>(share.full()) - static_cast<double>(share.full(static_cast<Tier>(i))));
      if (distance > static_cast<double>(n) + 1e-9) FAIL_CHECK("tier " << i << " is " << distance << " from its share of " << share.full());
    }
  }
  // largest distance to its share of a tier among groups of pages
  template <typename Key>
  double worst(Key&& key, int64_t groups) const {
    double distance = 0;
    for (int64_t g = 0; g < groups; ++g)
      for (size_t i = 0; i < kTiers; ++i) {
        double full = 0, there = 0;
        for (const Page& p : pages)
          if (key(p) == g) full += 1, there += p.tier == static_cast<Tier>(i);
        distance = std::max(distance, std::abs(wanted[i] * full - there));
      }
    return distance;
  }
  std::array<double, kTiers> wanted;
  KvShare share;
  std::deque<Page> pages;
};

}  // namespace

TEST_CASE("the share is kept to within a page, in each sequence and each layer to within three", "[runtime]") {
  for (const double share : {0.0, 0.1, 0.25, 0.5, 2.0 / 3, 0.75, 0.97, 1.0})
    for (const int rounds : {1, 2, 16}) {
      CAPTURE(share, rounds);
      const Tally t({share, 0}, rounds);
      CHECK(t.worst([](const Page& p) { return p.layer; }, kShareLayers) < 3);
      CHECK(t.worst([](const Page& p) { return static_cast<int64_t>(p.sequence); }, kSequences) < 3);
      if (share == 0 || share == 1) CHECK(t.share.full(Tier::device) == static_cast<int64_t>(share) * t.share.full());
      CHECK(t.share.full(Tier::host) == 0);
    }
}

TEST_CASE("so are the shares of three tiers, pages in pairs as well", "[runtime]") {
  const std::vector<TierShare> shares{{0.2, 0.5},         {0, 0.3},     {0.5, 0.5},  {0, 1},      // and the disk
                                      {1.0 / 3, 1.0 / 3}, {0.01, 0.98}, {0.7, 0.05}, {0.1, 0.9}, {0.45, 0.1}};
  for (const TierShare& s : shares)
    for (const int64_t at_once : {1, 2}) {
      CAPTURE(s.device, s.host, at_once);
      const Tally t(s, 16, at_once);
      CHECK(t.worst([](const Page& p) { return p.layer; }, kShareLayers) <= 3 * static_cast<double>(at_once) + 1e-9);
      CHECK(t.worst([](const Page& p) { return static_cast<int64_t>(p.sequence); }, kSequences) <= 3 * static_cast<double>(at_once) + 1e-9);
      if (s.device + s.host > 1 - 1e-9) CHECK(t.share.full(Tier::disk) == 0);
      if (s.device == 0) CHECK(t.share.full(Tier::device) == 0);
    }
}

TEST_CASE("when pages go, the next ones make up for it", "[runtime]") {
  Tally t({0.5, 0}, 4);
  for (size_t n = 0; n < 100;) {  // only pages in memory leave
    const Page p = t.pages.front();
    t.pages.pop_front();
    if (p.tier != Tier::device) {
      t.pages.push_back(p);
      continue;
    }
    t.share.count(p.layer, p.sequence, Tier::device, -1);
    ++n;
  }
  t.share.forget(3);  // a sequence that is gone counts no more
  const int64_t memory = t.share.full(Tier::device), full = t.share.full();
  for (int i = 0; i < 100; ++i) {
    const Tier to = t.share.choose(i % kShareLayers, 3);
    CHECK(to == Tier::device);
    t.share.count(i % kShareLayers, 3, to, 1);
  }
  CHECK(t.share.full(Tier::device) == memory + 100);
  CHECK(t.share.full() == full + 100);
  CHECK(t.share.full(Tier::device) * 2 == t.share.full());
  CHECK(t.share.choose_lower(0, 3) == Tier::disk);

  const Tally three({0.5, 0.25}, 16);
  for (const Tier lacking : {Tier::host, Tier::disk}) {
    KvShare share = three.share;
    for (int i = 0; i < 5; ++i) share.count(2, 1, lacking, -1);
    CHECK(share.choose_lower(2, 1) == lacking);
  }
  KvShare all({1, 0}, kShareLayers);
  CHECK(all.choose_lower(0, 1) == Tier::disk);
}
