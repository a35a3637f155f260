// SPDX-License-Identifier: Apache-2.0
// Zip archives: any bytes are a directory whose every entry lies in the file, apart from the others, and can be read, or a
// Fault::checkpoint.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "flexgen/format/zip.h"
#include "support/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace flexgen;
  const File file = testing::memory_file({reinterpret_cast<const char*>(data), size}, "z");
  try {
    const ZipArchive zip(file);
    uint64_t total = 0;
    for (const ZipEntry& e : zip.entries()) {
      if (e.offset > size || e.bytes > size - e.offset || zip.find(e.name) != &e) std::abort();
      total += e.bytes;
      try {
        if (zip.read(e, 1 << 20).size() != e.bytes) std::abort();
      } catch (const Error& damaged) {
        if (damaged.fault() != Fault::checkpoint) std::abort();
      }
    }
    if (total > size) std::abort();  // they would overlap
  } catch (const Error& e) {
    if (e.fault() != Fault::checkpoint || !std::string_view(e.what()).starts_with("z: ")) std::abort();
  }
  return 0;
}
