// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_noise.h"

#include <cstring>
#include <set>

#include "support/errors.h"
#include "support/kv_device.h"

using namespace flexgen;
using namespace flexgen::testing;

TEST_CASE("made-up content is the same for the same seed, wherever it lies", "[runtime]") {
  const auto content = [](KvOptions o, uint64_t seed, int64_t n, FakeDevice* card = nullptr) {
    KvStore store(std::move(o));
    const SequenceId a = store.create(), b = store.create();
    store.fill_synthetic(a, n, seed);
    store.fill_synthetic(b, n, seed + 1);
    CHECK(store.length(a) == n);
    CHECK(store.used_pages() == 2 * store.pages_for(n));
    std::vector<float> values;
    const SweepPlan plan{{{{span_of(b, n, 1), span_of(a, n, 1)}}}};
    store.begin_sweep(plan);
    for (int64_t layer = 0; layer < kLayers; ++layer)
      for (bool last = false; !last; store.release()) {
        const KvView& v = store.acquire(layer, 0);
        last = v.last;
        for (size_t i = 0; i < v.spans.size(); ++i)
          for (int64_t p = 0; p < div_up(n, kPage); ++p)
            for (std::byte* const* KvSpan::*pages : {&KvSpan::k_pages, &KvSpan::v_pages}) {
              const std::byte* page = (v.spans[i].*pages)[p];
              std::vector<float> there(1024);
              if (card && page) {
                const auto bytes = card->peek(page, 4096);
                std::memcpy(there.data(), bytes.data(), 4096);
              } else {
                std::memcpy(there.data(), page ? page : (v.host_spans[i].*pages)[p], 4096);
              }
              values.insert(values.end(), there.begin(), there.end());
            }
      }
    store.end_sweep();
    return values;
  };
  const auto want = content(KvOptions::in_memory(kLayers, kLayout, 1_MiB), 7, 100);
  CHECK(*std::min_element(want.begin(), want.end()) >= -0.25f);
  CHECK(*std::max_element(want.begin(), want.end()) < 0.25f);
  CHECK(std::set<float>(want.begin(), want.end()).size() > 1000);
  Disk disk(200);
  CHECK(content(disk.options(200, 30, 0.5), 7, 100) == want);
  Disk small(200);
  CHECK(content(small.options(40, 12, 0), 7, 100) == want);
  CHECK(content(KvOptions::in_memory(kLayers, kLayout, 1_MiB), 8, 100) != want);
  for (const bool attend_on_host : {false, true})
    for (const Lateness lateness : {Lateness::late, Lateness::random}) {
      KvTiers tiers({.lateness = lateness, .device = 50, .host = 60, .disk = 60});
      CHECK(content(tiers.options(12, {0.2, 0.4}, true, attend_on_host), 7, 100, &tiers.card) == want);
    }
  KvStore store(KvOptions::in_memory(kLayers, kLayout, 1_MiB));
  const SequenceId a = store.create();
  store.fill_synthetic(a, 5, 1);
  CHECK_FAULT(store.fill_synthetic(a, 5, 1), Fault::internal, "has tokens");
}
