// SPDX-License-Identifier: Apache-2.0
// What a KV cache counts about itself.
#pragma once

#include <cstdint>

namespace flexgen {

// Since the cache was made
struct KvStatistics {
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t reread_pages = 0;            // whose first reading was damaged
  double wait_disk_s = 0;               // for pages on their way in
  double wait_slot_s = 0;               // for a frame that a page on its way out still held
  double verify_s = 0;                  // hashing, of pages on their way in
  uint64_t memory_bytes = 0, disk_bytes = 0;            // of pages by place, now; copies that are in use for a while are not counted
  uint64_t peak_memory_bytes = 0, peak_disk_bytes = 0;  // when both together were most
  uint64_t full_pages = 0, full_pages_in_memory = 0;    // now
};

}  // namespace flexgen
