// SPDX-License-Identifier: Apache-2.0
// What a KV store is made of: its pages' layout, its memory, and what lies below that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "flexgen/base/bytes.h"
#include "flexgen/base/thread_pool.h"
#include "flexgen/base/trace.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/memory/device.h"
#include "flexgen/runtime/kv_plan.h"

namespace flexgen {

struct KvOptions {
  int64_t n_layers = 0;
  KvLayout layout;              // of a page
  size_t frames = 0;            // pages that memory holds, those in the staging frames included
  std::span<std::byte> memory;  // the frames, on 4 KiB; empty: the store maps its own as it needs them
  Device* device = nullptr;     // whose memory that is, on 256 B; it outlives the store. null: the host's
  Device::Stream stream = nullptr;  // of the device: what appends to pages and attends to them

  // What does not stay in memory. Without slots every page does.
  size_t disk_pages = 0;        // slots of the spill file, of kv_frame_bytes(layout) each, from its beginning
  size_t host_pages = 0;        // slots behind the end of the file, which the engine has in host memory instead (io/device_io.h)
  size_t staging_frames = 0;    // of the frames: for pages that come from slots
  size_t writing_frames = 0;    // of the frames: for full pages on their way to slots
  double memory_share = 1;      // of the full pages, 0 .. 1
  double host_share = 0;        // in slots on the host; the rest is on disk
  // Pages in slots on the host are attended there and stay. K and V then move together, and those on the host are a sequence's first.
  bool attend_on_host = false;
  std::span<std::byte> host_memory;  // the slots on the host, for that
  bool overlap = true;          // false: a page is read only when it is needed
  uint64_t asked_bytes = 16_MiB;  // that may be asked for ahead and not be there: what keeps a disk busy; reads of others wait behind it
  IoEngine* io = nullptr;       // outlives the store, as do the next four
  int spill_fd = -1;            // without slots on disk it is a name alone
  std::string spill_name;       // for messages
  ThreadPool* pool = nullptr;   // hashes pages where the engine does not; null: the calling thread does
  Trace* trace = nullptr;

  size_t lower_pages() const { return host_pages + disk_pages; }

  // everything in memory, as many pages as fit in the budget
  static KvOptions in_memory(int64_t n_layers, const KvLayout& layout, uint64_t budget_bytes) {
    KvOptions o;
    o.n_layers = n_layers;
    o.layout = layout;
    o.frames = static_cast<size_t>(budget_bytes / kv_frame_bytes(layout));
    return o;
  }
  // the numbers of a plan; memory, engine and the rest are the caller's to fill in
  static KvOptions planned(const KvDemand& d, const KvRequirement& r) {
    KvOptions o;
    o.n_layers = d.n_layers;
    o.layout = d.layout;
    o.frames = r.frames();
    o.disk_pages = r.disk_pages;
    o.host_pages = r.host_pages;
    o.staging_frames = r.staging_in;
    o.writing_frames = r.staging_out;
    o.memory_share = d.memory_share;
    o.host_share = d.host_share;
    o.attend_on_host = d.attend_on_host;
    o.overlap = d.overlap;
    return o;
  }
};

}  // namespace flexgen
