// SPDX-License-Identifier: Apache-2.0
// Model files: any bytes open or are an error; what opens is walked, its blocks read and held against their hashes, its description and
// tensors against each other. The first byte says whether the hashes are made right first, so that the checks behind them are reached.
// The rest is a model file without its tail of zeros, which is put back from the header's length (up to 256 KiB).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/format/verify_file.h"
#include "flexgen/model/description_json.h"
#include "support/model_image.h"

using namespace flexgen;

namespace {

void use(const ModelFile& m) {
  uint64_t end = m.records().empty() ? m.file().size() : m.records()[0].offset;
  for (const FileRecord& r : m.records()) {
    if (r.offset < end || r.offset % m.alignment() != 0) std::abort();
    end = r.offset + r.bytes;
  }
  if (end > m.file().size()) std::abort();
  for (const FileTensor& t : m.tensors()) {
    if (m.find(t.name) != &t || t.n_blocks == 0 || t.first_block + t.n_blocks > m.blocks().size()) std::abort();
    if (t.offset < m.records()[t.record].offset || t.offset + t.bytes > m.records()[t.record].offset + m.records()[t.record].bytes) std::abort();
  }
  for (const std::string& message : find_damage(m, {.workers = 1}))
    if (message.empty()) std::abort();
  (void)to_json(stored_description(m)).dump();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  testing::ModelImage image(std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  if (size > sizeof(layout::FileHeader)) {
    const uint64_t wanted = image.header().file_bytes;
    if (wanted > image.bytes().size() && wanted <= 256 * 1024) image.bytes().resize(wanted);
    if (data[0] % 2 == 0) image.seal();
  }
  try {
    use(image.open());
  } catch (const Error& e) {
    if (std::string_view(e.what()).empty() || e.fault() == Fault::internal) std::abort();
  }
  return 0;
}
