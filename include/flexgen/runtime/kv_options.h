// SPDX-License-Identifier: Apache-2.0
// What a KV store is made of: its pages' layout, its memory, and the spill file beside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "flexgen/base/thread_pool.h"
#include "flexgen/base/trace.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/runtime/kv_plan.h"

namespace flexgen {

struct KvOptions {
  int64_t n_layers = 0;
  KvLayout layout;              // of a page
  size_t frames = 0;            // pages that memory holds, those in the staging frames included
  std::span<std::byte> memory;  // the frames, on 4 KiB; empty: the store maps its own as it needs them

  // The spill file. Without one every page stays in memory.
  size_t disk_pages = 0;        // slots of the file, of kv_frame_bytes(layout) each, from its beginning
  size_t staging_frames = 0;    // of the frames: for pages that come from disk
  size_t writing_frames = 0;    // of the frames: for full pages on their way to disk
  double memory_share = 1;      // of the full pages, 0 .. 1
  bool overlap = true;          // false: a page is read only when it is needed
  IoEngine* io = nullptr;       // outlives the store, as do the next four
  int spill_fd = -1;
  std::string spill_name;       // for messages
  ThreadPool* pool = nullptr;   // hashes pages; null: the calling thread does
  Trace* trace = nullptr;

  // everything in memory, as many pages as fit in the budget
  static KvOptions in_memory(int64_t n_layers, const KvLayout& layout, uint64_t budget_bytes) {
    KvOptions o;
    o.n_layers = n_layers;
    o.layout = layout;
    o.frames = static_cast<size_t>(budget_bytes / kv_frame_bytes(layout));
    return o;
  }
  // the numbers of a plan; memory, spill file and the rest are the caller's to fill in
  static KvOptions planned(int64_t n_layers, const KvLayout& layout, const KvRequirement& r, double memory_share, bool overlap) {
    KvOptions o;
    o.n_layers = n_layers;
    o.layout = layout;
    o.frames = r.frames();
    o.disk_pages = r.disk_pages;
    o.staging_frames = r.staging_in;
    o.writing_frames = r.staging_out;
    o.memory_share = memory_share;
    o.overlap = overlap;
    return o;
  }
};

}  // namespace flexgen
