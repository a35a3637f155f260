// SPDX-License-Identifier: Apache-2.0
// safetensors: any bytes are tensors that tile the data, every byte of which can be read, or a Fault::checkpoint.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/format/safetensors.h"
#include "support/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace flexgen;
  const File file = testing::memory_file({reinterpret_cast<const char*>(data), size}, "s");
  try {
    uint64_t at = 0;
    for (const StoredTensor& t : read_safetensors(file, 0)) {
      if (t.offset > size || t.offset < at || !t.contiguous()) std::abort();
      at = t.offset;
      try {
        require_readable(t, "s");
        std::vector<std::byte> bytes(t.bytes());
        file.read(t.offset, bytes);
      } catch (const Error& e) {
        if (e.fault() != Fault::checkpoint) std::abort();
      }
    }
  } catch (const Error& e) {
    if (e.fault() != Fault::checkpoint || !std::string_view(e.what()).starts_with("s: ")) std::abort();
  }
  return 0;
}
