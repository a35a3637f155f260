// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_share.h"

#include <deque>
#include <random>

#include "support/catch.h"

using namespace flexgen;

namespace {

struct Page {
  int64_t layer;
  SequenceId sequence;
  bool memory;
};

constexpr int64_t kShareLayers = 6;
constexpr SequenceId kSequences = 8;

// what a share keeps of the pages that decoding makes: layer by layer, in it sequence by sequence, K and V of each
struct Tally {
  explicit Tally(double s, int rounds) : wanted(s), share(s, kShareLayers) {
    for (SequenceId q = 0; q < kSequences; ++q) share.open(q);
    for (int r = 0; r < rounds; ++r)
      for (int64_t layer = 0; layer < kShareLayers; ++layer)
        for (SequenceId q = 0; q < kSequences; ++q)
          for (int kind = 0; kind < 2; ++kind) add(layer, q);
  }
  void add(int64_t layer, SequenceId q) {
    pages.push_back({layer, q, share.stays(layer, q)});
    share.count(layer, q, pages.back().memory, 1);
    CHECK(std::abs(wanted * static_cast<double>(share.full()) - static_cast<double>(share.in_memory())) <= 1 + 1e-9);
  }
  // largest distance to the share among groups of pages
  template <typename Key>
  double worst(Key&& key, int64_t groups) const {
    double distance = 0;
    for (int64_t g = 0; g < groups; ++g) {
      double full = 0, memory = 0;
      for (const Page& p : pages)
        if (key(p) == g) full += 1, memory += p.memory;
      distance = std::max(distance, std::abs(wanted * full - memory));
    }
    return distance;
  }
  double wanted;
  KvShare share;
  std::deque<Page> pages;
};

}  // namespace

TEST_CASE("the share is kept to within a page, in each sequence and each layer to within three", "[runtime]") {
  for (const double share : {0.0, 0.1, 0.25, 0.5, 2.0 / 3, 0.75, 0.97, 1.0})
    for (const int rounds : {1, 2, 16}) {
      CAPTURE(share, rounds);
      const Tally t(share, rounds);
      CHECK(t.worst([](const Page& p) { return p.layer; }, kShareLayers) < 3);
      CHECK(t.worst([](const Page& p) { return static_cast<int64_t>(p.sequence); }, kSequences) < 3);
      if (share == 0 || share == 1) CHECK(t.share.in_memory() == static_cast<int64_t>(share) * t.share.full());
    }
}

TEST_CASE("when pages go, the next ones make up for it", "[runtime]") {
  Tally t(0.5, 4);
  for (size_t n = 0; n < 100;) {  // only pages in memory leave
    const Page p = t.pages.front();
    t.pages.pop_front();
    if (!p.memory) {
      t.pages.push_back(p);
      continue;
    }
    t.share.count(p.layer, p.sequence, true, -1);
    ++n;
  }
  t.share.forget(3);  // a sequence that is gone counts no more
  const int64_t memory = t.share.in_memory(), full = t.share.full();
  for (int i = 0; i < 100; ++i) {
    const bool stays = t.share.stays(i % kShareLayers, 3);
    CHECK(stays);
    t.share.count(i % kShareLayers, 3, stays, 1);
  }
  CHECK(t.share.in_memory() == memory + 100);
  CHECK(t.share.full() == full + 100);
  CHECK(t.share.in_memory() * 2 == t.share.full());
}
