// SPDX-License-Identifier: Apache-2.0
// Where the time of the sweeps went and what was moved for them, over all stages: the disk, the link to a card, the verifying, the
// computing.
//
// Without a card the sweep's thread computes, verifies or waits, never two of these at a time. The disk works beside it; while the disk is
// idle, every slot is full, so that it waits for the computing. A card computes beside that thread, and its link moves bytes beside both.
#pragma once

#include <algorithm>
#include <cstdint>

#include "flexgen/io/device_io.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/ops/device_backend.h"
#include "flexgen/runtime/hidden_store.h"
#include "flexgen/runtime/kv_statistics.h"
#include "flexgen/runtime/sweep.h"
#include "flexgen/runtime/tiered_weights.h"

namespace flexgen {

struct FlowStatistics {
  // Bytes that the sweeps used, by where they lay. A row block counts once a sweep, a cache page as often as it was attended to.
  struct Tiers {
    uint64_t memory = 0, disk = 0;
    uint64_t written = 0;  // to disk
  };

  double elapsed_s = 0;              // of the sweeps
  double compute_s = 0, verify_s = 0;
  double wait_disk_s = 0;            // the sweep waited for something that was being read
  double wait_slot_s = 0;            // for memory whose content was still being written
  double disk_s = 0;                 // anything was in flight
  double read_s = 0, write_s = 0;
  double link_in_s = 0, link_out_s = 0;  // copies to the card, and from it
  uint64_t link_in_bytes = 0, link_out_bytes = 0;
  double byte_seconds = 0;           // integral of the bytes in flight
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t short_transfers = 0, retries = 0;
  uint64_t reread = 0;               // blocks and pages whose first reading did not match its hash
  Tiers weights, cache, activations;
  ProductCounts products;

  double share(double seconds) const { return elapsed_s > 0 ? seconds / elapsed_s : 0; }
  // Of the time that the busiest of disk, link and computing needs alone. 1: the others are hidden behind it wholly
  double share_of_roof() const { return share(std::max({disk_s, link_s(), compute_s})); }
  double link_s() const { return std::max(link_in_s, link_out_s); }  // the two directions do not share
  const char* roof() const { return disk_s > std::max(compute_s, link_s()) ? "disk" : link_s() > compute_s ? "link" : "compute"; }
  double disk_idle_s() const { return std::max(0.0, elapsed_s - disk_s); }
  // in sweeps, but neither computing nor verifying nor waiting: choosing tokens, keeping books
  double other_s() const { return std::max(0.0, elapsed_s - compute_s - verify_s - wait_disk_s - wait_slot_s); }
};

// The parts' counts since they were made, as one. elapsed_s is the caller's to tell. link, queue: of a card, or null
inline FlowStatistics flow_statistics(const SweepStatistics& sweep, const HiddenStatistics& hidden, const WeightStatistics& weights,
                                      const KvStatistics& cache, const IoStatistics& io, const DeviceIoEngine* link = nullptr,
                                      const DeviceQueue* queue = nullptr) {
  FlowStatistics f;
  f.compute_s = sweep.compute_s;
  f.verify_s = weights.verify_s + cache.verify_s;
  f.wait_disk_s = weights.wait_disk_s + hidden.wait_disk_s + cache.wait_disk_s;
  f.wait_slot_s = cache.wait_slot_s;
  f.disk_s = io.busy_s;
  f.read_s = io.reading_s;
  f.write_s = io.writing_s;
  f.byte_seconds = io.byte_seconds;
  f.bytes_read = io.bytes_read;
  f.bytes_written = io.bytes_written;
  f.short_transfers = io.short_transfers;
  f.retries = io.retries;
  if (link) {
    const DeviceIoStatistics l = link->device_statistics();
    f.link_in_s = l.to_device.busy_s, f.link_in_bytes = l.to_device.bytes;
    f.link_out_s = l.from_device.busy_s, f.link_out_bytes = l.from_device.bytes;
  }
  if (queue) f.products = queue->products();
  f.reread = weights.reread_blocks + hidden.reread + cache.reread_pages;
  const auto rest = [](uint64_t all, uint64_t part) { return all > part ? all - part : 0; };
  f.weights = {weights.resident_bytes, weights.streamed_bytes, 0};
  f.cache = {rest(sweep.cache_bytes, cache.bytes_read), cache.bytes_read, cache.bytes_written};
  f.activations = {rest(sweep.hidden_bytes, hidden.bytes_read), hidden.bytes_read, hidden.bytes_written};
  return f;
}

namespace detail {

template <typename Fn>
FlowStatistics combined(FlowStatistics a, const FlowStatistics& b, Fn&& fn) {
  using F = FlowStatistics;
  for (double F::*field :
       {&F::elapsed_s, &F::compute_s, &F::verify_s, &F::wait_disk_s, &F::wait_slot_s, &F::disk_s, &F::read_s, &F::write_s, &F::link_in_s,
        &F::link_out_s, &F::byte_seconds})
    a.*field = fn(a.*field, b.*field);
  for (uint64_t F::* field :
       {&F::link_in_bytes, &F::link_out_bytes, &F::bytes_read, &F::bytes_written, &F::short_transfers, &F::retries, &F::reread})
    a.*field = fn(a.*field, b.*field);
  for (F::Tiers F::* tiers : {&F::weights, &F::cache, &F::activations})
    for (uint64_t F::Tiers::*field : {&F::Tiers::memory, &F::Tiers::disk, &F::Tiers::written})
      (a.*tiers).*field = fn((a.*tiers).*field, (b.*tiers).*field);
  for (uint64_t ProductCounts::*field : {&ProductCounts::library, &ProductCounts::few_tokens, &ProductCounts::unfit})
    a.products.*field = fn(a.products.*field, b.products.*field);
  return a;
}

}  // namespace detail

// What happened between two countings of the same parts
inline FlowStatistics operator-(const FlowStatistics& later, const FlowStatistics& before) {
  return detail::combined(later, before, [](auto x, auto y) { return x - y; });
}
inline FlowStatistics operator+(const FlowStatistics& a, const FlowStatistics& b) {
  return detail::combined(a, b, [](auto x, auto y) { return x + y; });
}

}  // namespace flexgen
