// SPDX-License-Identifier: Apache-2.0
// PyTorch files: any bytes are tensors every element of which can be read, or a Fault::checkpoint. Bytes that begin as a pickle but
// not as a legacy file are put into an archive as its data.pkl, with right CRCs and the storages 0 (24 bytes), 1 (4096) and 2 (none),
// so that the fuzzer reaches what stands behind the archive.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/format/checkpoint.h"
#include "flexgen/format/row_reader.h"
#include "support/memory_file.h"
#include "support/torch_writer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace flexgen;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.starts_with("\x80") && bytes.find("\x8a\x0a") != 2)
    bytes = testing::pickle::zip_bin(bytes, {{"0", std::string(24, '0')}, {"1", std::string(4096, '1')}, {"2", ""}});
  const File memory = testing::memory_file(bytes);
  const std::string path = fmt::format("/proc/self/fd/{}", memory.fd());
  try {
    const Checkpoint c = Checkpoint::open_file(path);
    for (const StoredTensor& t : c.tensors()) {
      if (c.find(t.name) != &t) std::abort();
      try {
        require_readable(t, c.path(t));
      } catch (const Error& e) {
        if (e.fault() != Fault::checkpoint || std::string_view(e.what()).empty()) std::abort();
        continue;
      }
      if (t.shape.size() > 2 || t.bytes() > 1 << 20) continue;
      RowReader reader(c, t, 0);
      std::vector<std::byte> rows(t.bytes());
      reader.read(0, reader.rows(), rows);
      if (reader.rows() > 1 && !rows.empty()) {  // the last row alone is the same
        std::vector<std::byte> last(reader.row_bytes());
        reader.read(reader.rows() - 1, 1, last);
        if (!std::equal(last.begin(), last.end(), rows.end() - static_cast<std::ptrdiff_t>(last.size()))) std::abort();
      }
    }
  } catch (const Error& e) {
    if (e.fault() != Fault::checkpoint || !std::string_view(e.what()).starts_with(path)) std::abort();
  }
  return 0;
}
