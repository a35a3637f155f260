// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/weight_placement.h"

#include <cmath>

#include "flexgen/format/model_writer.h"
#include "support/catch.h"
#include "support/streamed_model.h"

using namespace flexgen;

TEST_CASE("any share of the weights is met to within one row block, and evenly", "[runtime]") {
  const testing::StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  uint64_t largest = 0;
  for (const FileBlock& b : m.file().blocks()) largest = std::max(largest, b.bytes);
  const WeightPlacement none = WeightPlacement::of_share(m.file(), m.program(), 0);
  CHECK(none.memory_bytes() > 0);  // vectors and positions
  CHECK(none.memory_bytes() + none.streamed_bytes() == m.file().weight_bytes());
  for (const double share : {0.25, 0.3, 1.0 / 3, 0.5, 0.77, 0.999, 1.0}) {
    CAPTURE(share);
    const WeightPlacement p = WeightPlacement::of_share(m.file(), m.program(), share);
    const double wanted = std::max(share * static_cast<double>(m.file().weight_bytes()), static_cast<double>(none.memory_bytes()));
    CHECK(std::abs(static_cast<double>(p.memory_bytes()) - wanted) <= static_cast<double>(largest));
    CHECK(p.share() == Approx(static_cast<double>(p.memory_bytes()) / static_cast<double>(m.file().weight_bytes())));

    // each matrix that is streamed at all has its share, to within a block
    const double of_rest = (wanted - static_cast<double>(none.memory_bytes())) / static_cast<double>(m.file().weight_bytes() - none.memory_bytes());
    for (const FileTensor& t : m.file().tensors()) {
      if (t.is_vector() || none.resident(t.first_block)) continue;
      uint64_t resident = 0, all = 0;
      for (size_t b = t.first_block; b < t.first_block + t.n_blocks; ++b) {
        all += m.file().blocks()[b].bytes;
        if (p.resident(b)) resident += m.file().blocks()[b].bytes;
      }
      CAPTURE(t.name);
      CHECK(std::abs(static_cast<double>(resident) - of_rest * static_cast<double>(all)) <= static_cast<double>(largest) * 1.01);
    }
  }
  CHECK(WeightPlacement::of_share(m.file(), m.program(), 1).streamed_bytes() == 0);
}

TEST_CASE("a placement within a number of bytes never takes more, nor a block less than it could", "[runtime]") {
  const testing::StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  const uint64_t all = WeightPlacement::of_share(m.file(), m.program(), 1).resident_bytes();
  const WeightPlacement least = WeightPlacement::within(m.file(), m.program(), 0);
  const FileTensor* tokens = m.file().find("embed.tokens");
  REQUIRE(tokens);
  uint64_t largest = 0;
  for (const FileBlock& b : m.file().blocks()) largest = std::max(largest, b.bytes);
  for (uint64_t bytes = least.resident_bytes(); bytes <= all + 4096; bytes += 4096 * 3) {
    const WeightPlacement p = WeightPlacement::within(m.file(), m.program(), bytes);
    REQUIRE(p.resident_bytes() <= bytes);
    REQUIRE(p.resident_bytes() + 2 * largest > std::min(bytes, all));
    if (bytes >= least.resident_bytes() + tokens->bytes) REQUIRE(p.resident(tokens->first_block + tokens->n_blocks - 1));  // the embedding is first
  }
  CHECK(WeightPlacement::within(m.file(), m.program(), all).streamed_bytes() == 0);
}

TEST_CASE("with a device: shares of its memory and of the host's, each to within a block, and nothing is forgotten", "[runtime]") {
  const testing::StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  uint64_t largest = 0;
  for (const FileBlock& b : m.file().blocks()) largest = std::max(largest, b.bytes);
  const auto all = static_cast<double>(m.file().weight_bytes());
  const uint64_t least = WeightPlacement::of_share(m.file(), m.program(), 0).memory_bytes();
  for (const auto& [device, host] : {std::pair{0.0, 1.0}, {0.0, 0.5}, {0.3, 0.3}, {0.3, 0.7}, {0.9, 0.1}, {1.0, 0.0}, {0.0, 0.0}}) {
    CAPTURE(device, host);
    const WeightPlacement p = WeightPlacement::of_shares(m.file(), m.program(), {device, host});
    CHECK(p.memory_bytes() == WeightPlacement::of_share(m.file(), m.program(), device).memory_bytes());
    const double wanted = std::max(0.0, (device + host) * all - static_cast<double>(p.memory_bytes()));
    CHECK(std::abs(static_cast<double>(p.host_bytes()) - wanted) <= 1.01 * static_cast<double>(largest));
    CHECK(p.memory_bytes() + p.host_bytes() + p.disk_bytes() == m.file().weight_bytes());
    if (device + host == 1) CHECK(p.disk_bytes() == 0);
    uint64_t in_host = 0;
    for (size_t b = 0; b < m.file().blocks().size(); ++b) {
      REQUIRE_FALSE((p.resident(b) && p.in_host(b)));
      in_host += p.in_host(b) ? m.file().blocks()[b].bytes : 0;
    }
    CHECK(in_host == p.host_bytes());
  }
  for (const uint64_t host : {uint64_t{0}, uint64_t{20000}, m.file().weight_bytes()}) {
    const WeightPlacement p = WeightPlacement::within(m.file(), m.program(), least + 30000, host);
    CHECK(p.host_bytes() <= host);
    CHECK(p.host_bytes() + 2 * largest > std::min(host, p.streamed_bytes()));
  }
}
