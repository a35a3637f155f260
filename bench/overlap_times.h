// SPDX-License-Identifier: Apache-2.0
// When the parts of a pass were asked for, there and done with, and what follows from it: how full the ring of slots was and of what, and
// how long a layer took.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace flexgen::bench {

// Seconds since the pass began
struct ChunkTime {
  int64_t layer = -1;
  uint64_t bytes = 0;
  double asked = 0, there = 0, released = 0;
};
struct ReadTime {
  uint64_t bytes = 0;
  double start = 0, end = 0;
};

// Shares of the ring's bytes over a time, 1 in all. ready: read, and not asked for yet (or being verified)
struct SlotShares {
  double free = 0, filling = 0, ready = 0, in_use = 0;
};

// reads: all that began in the pass, those ahead for the next one too
inline SlotShares slot_shares(const std::vector<ReadTime>& reads, const std::vector<ChunkTime>& chunks, uint64_t ring_bytes, double seconds) {
  double filling = 0, in_use = 0, occupied = 0;  // byte seconds
  for (const ReadTime& r : reads) {
    filling += static_cast<double>(r.bytes) * (std::min(r.end, seconds) - r.start);
    occupied += static_cast<double>(r.bytes) * (seconds - r.start);
  }
  for (const ChunkTime& c : chunks) {
    in_use += static_cast<double>(c.bytes) * (c.released - c.there);
    occupied -= static_cast<double>(c.bytes) * (seconds - c.released);
  }
  const double all = static_cast<double>(ring_bytes) * seconds;
  return {1 - occupied / all, filling / all, (occupied - filling - in_use) / all, in_use / all};
}

struct Percentiles {
  double p50 = 0, p99 = 0, max = 0;
};
inline Percentiles percentiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  if (values.empty()) return {};
  return {values[values.size() / 2], values[values.size() * 99 / 100], values.back()};
}

// From its first part asked for to its last one done with
inline std::vector<double> layer_seconds(const std::vector<ChunkTime>& chunks) {
  std::vector<double> all;
  for (size_t first = 0, next = 0; first < chunks.size(); first = next) {
    while (next < chunks.size() && chunks[next].layer == chunks[first].layer) ++next;
    all.push_back(chunks[next - 1].released - chunks[first].asked);
  }
  return all;
}

// Until all of the first layer had been there
inline double first_layer_there(const std::vector<ChunkTime>& chunks) {
  double there = 0;
  for (const ChunkTime& c : chunks)
    if (c.layer == chunks.front().layer) there = c.there;
  return there;
}

}  // namespace flexgen::bench
