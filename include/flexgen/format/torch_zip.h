// SPDX-License-Identifier: Apache-2.0
// PyTorch's .bin since 1.6 (torch/serialization.py, _save): a zip archive of stored entries under one folder,
//   R/data.pkl    the pickle; tensors refer to storages by key
//   R/data/KEY    one storage, its elements
//   R/byteorder   "little" or "big"; absent before 2.1
// and more that is not needed.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/format/pickle.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/format/torch_state.h"
#include "flexgen/format/zip.h"
#include "flexgen/io/file.h"

namespace flexgen {

inline constexpr uint64_t kMaxPickleBytes = 64_MiB;

// The tensors of a zip .bin, which becomes number file_index of the checkpoint
inline std::vector<StoredTensor> read_torch_zip(const File& file, size_t file_index) {
  const std::string& path = file.path();
  const ZipArchive zip(file);
  std::string root;
  for (const ZipEntry& e : zip.entries()) {
    if (!e.name.ends_with("/data.pkl") || e.name.find('/') != e.name.size() - 9) continue;
    if (!root.empty()) fail(Fault::checkpoint, "{}: found both '{}/data.pkl' and '{}', allowed one", path, printable(root), printable(e.name));
    root = e.name.substr(0, e.name.size() - 9);
  }
  if (root.empty()) fail(Fault::checkpoint, "{}: zip archive without a folder/data.pkl: not written by PyTorch", path);
  if (zip.find(root + "/constants.pkl"))
    fail(Fault::checkpoint, "{}: found a TorchScript module, which is code, allowed a state_dict. Save the state_dict()", path);
  if (const ZipEntry* order = zip.find(root + "/byteorder")) {
    const std::string text = zip.read(*order, 64);
    if (text != "little")
      fail(Fault::checkpoint, "{}: byte order: found '{}', allowed 'little'. It was written on another kind of machine", path, printable(text));
  }

  const std::string source = path + ": data.pkl";
  const Pickle pickle = Pickle::recognise(zip.read(*zip.find(root + "/data.pkl"), kMaxPickleBytes), source);
  const TorchState state(pickle, source);
  return state.tensors(file_index, [&](const TorchStorage& s) {
    const std::string name = fmt::format("{}/data/{}", root, s.key);
    const ZipEntry* e = s.key.find('/') == s.key.npos ? zip.find(name) : nullptr;
    if (!e) fail(Fault::checkpoint, "{}: storage '{}' is named but not in the archive", path, printable(name));
    const uint64_t bytes = checked_mul(s.numel, s.format->bits / 8, path);
    if (e->bytes != bytes)
      fail(Fault::checkpoint, "{}: storage '{}': found {} bytes, allowed {}: {} elements of {}", path, printable(name), with_commas(e->bytes),
           with_commas(bytes), s.numel, s.format->name);
    return TorchStoragePlace{e->offset, e->has_crc() ? std::optional(e->crc32) : std::nullopt};
  });
}

}  // namespace flexgen
