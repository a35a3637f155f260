// SPDX-License-Identifier: Apache-2.0
// What the disk gives to someone who only reads, measured where the results are: the roof of everything that streams.
#pragma once

#include <cstdint>
#include <string>

namespace flexgen::bench {

struct DiskRoof {
  double bytes_per_s = 0;
  std::string how;  // who measured it: "fio, io_uring, 2 MiB x 8, huge pages", or our own engine where fio or huge pages are missing
};

// Sequential direct reads of the file for about that long, past the page cache, into huge pages
DiskRoof measure_disk_roof(const std::string& path, double seconds = 3);

}  // namespace flexgen::bench
