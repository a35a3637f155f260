// SPDX-License-Identifier: Apache-2.0
// What the disk gives to someone who only reads, measured where the results are: the roof of everything that streams. fio measures it,
// with direct reads into huge pages; where fio or free huge pages are missing, our own engine does, and the result says so.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "flexgen/io/io_engine.h"
#include "flexgen/io/io_file.h"

namespace flexgen::bench {

struct DiskRoof {
  double bytes_per_s = 0;
  std::string how;  // "fio, io_uring, 2 MiB x 8, huge pages", or what our own engine measured and why not fio
};

// Sequential direct reads of the file for about that long, past the page cache, into huge pages. throws Fault::io
DiskRoof measure_disk_roof(const std::string& path, double seconds = 3);

struct ReadSpeed {
  double bytes_per_s = 0;
  double cpu_s_per_gb = 0;  // user and system time of the reading process, per 1e9 bytes
};

// fio on the same file with the same chunk and depth. nullopt where it cannot run; why_not then says why, and what would help.
std::optional<ReadSpeed> fio_read_speed(const std::string& path, uint64_t file_bytes, size_t chunk, int depth, double seconds, std::string& why_not);

// Buffers for engine_read_speed: those in flight and a few to be asked for next. Twice as many would fall out of the cache that a
// virtual disk's host copies into, at 0.95 of the speed; fio has no more than those in flight.
constexpr size_t read_buffers(int depth) { return static_cast<size_t>(depth) + std::max<size_t>(1, static_cast<size_t>(depth) / 4); }

// Reads the file from its beginning, again and again, in requests of chunk bytes; memory holds at least 2 of them, and as many are
// asked for at once as it holds. The file holds at least one chunk.
ReadSpeed engine_read_speed(IoEngine& engine, const IoFile& file, std::span<std::byte> memory, size_t chunk, double seconds);

}  // namespace flexgen::bench
