// SPDX-License-Identifier: Apache-2.0
// What a KV cache counts about itself.
#pragma once

#include <cstdint>

namespace flexgen {

// Since the cache was made. "Memory" is what the frames are: a device's, where there is one.
struct KvStatistics {
  uint64_t bytes_read = 0, bytes_written = 0;           // disk to memory, memory to disk
  uint64_t bytes_from_host = 0, bytes_to_host = 0;      // slots on the host to the device and back
  uint64_t reread_pages = 0;            // whose first reading was damaged
  double wait_disk_s = 0;               // for pages on their way in from disk
  double wait_copy_s = 0;               // and from the host
  double wait_slot_s = 0;               // for a frame that a page on its way out still held
  double verify_s = 0;                  // hashing, of pages on their way in; an engine's own is not counted
  uint64_t memory_bytes = 0, host_bytes = 0, disk_bytes = 0;                      // of pages by place, now; copies in use are not counted
  uint64_t peak_memory_bytes = 0, peak_host_bytes = 0, peak_disk_bytes = 0;       // when all together were most
  uint64_t full_pages = 0, full_pages_in_memory = 0, full_pages_on_host = 0;      // now
};

}  // namespace flexgen
