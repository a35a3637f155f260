// SPDX-License-Identifier: Apache-2.0
// A .bin that torch.save wrote, in whichever of its two layouts.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/foreign.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/format/torch_legacy.h"
#include "flexgen/format/torch_zip.h"
#include "flexgen/io/file.h"

namespace flexgen {

// The tensors of a .bin file, which becomes number file_index of the checkpoint
inline std::vector<StoredTensor> read_torch(const File& file, size_t file_index) {
  refuse_foreign(file);
  std::array<unsigned char, 9> head{};
  const size_t n = std::min<uint64_t>(head.size(), file.size());
  file.read(0, std::as_writable_bytes(std::span(head)).first(n));
  if (head[0] == 'P' && head[1] == 'K') return read_torch_zip(file, file_index);
  if (head[0] == 0x80) return read_torch_legacy(file, file_index);
  if (head[8] == '{') fail(Fault::checkpoint, "{}: found a safetensors file, allowed a PyTorch one. Name it model.safetensors", file.path());
  fail(Fault::checkpoint, "{}: found bytes {:02x} {:02x} {:02x} {:02x} at the start, allowed a zip archive or a pickle that PyTorch wrote",
       file.path(), head[0], head[1], head[2], head[3]);
}

}  // namespace flexgen
