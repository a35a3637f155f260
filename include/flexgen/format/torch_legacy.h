// SPDX-License-Identifier: Apache-2.0
// PyTorch's .bin before 1.6, and since with _use_new_zipfile_serialization=False (torch/serialization.py, _legacy_save): pickles and
// storages end to end,
//   pickle of 0x1950a86a20f9469cfc6c    pickle of 1001    pickle of {"little_endian": True, ...}
//   pickle of the object; its storages are ("storage", class, key, location, numel, view)
//   pickle of the list of keys          for each key: i64 numel, then the elements, without padding
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/format/little_endian.h"
#include "flexgen/format/pickle.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/format/torch_state.h"
#include "flexgen/io/file.h"

namespace flexgen {

namespace detail {

// The pickle at offset of file; sets offset behind it. How long it is shows only when it has been read: the window grows.
inline Pickle next_pickle(const File& file, uint64_t& offset, const char* what) {
  constexpr uint64_t kFirst = 64_KiB, kMax = 64_MiB;
  const std::string source = fmt::format("{}: {} (from byte {})", file.path(), what, offset);
  for (uint64_t window = kFirst;; window *= 8) {
    const uint64_t left = file.size() - std::min(offset, file.size());
    const uint64_t n = std::min({window, left, kMax});
    std::string bytes(n, '\0');
    file.read(offset, std::as_writable_bytes(std::span(bytes)));
    if (auto p = Pickle::try_recognise(std::move(bytes), source)) {
      offset += p->size();
      return std::move(*p);
    }
    if (n == left) fail(Fault::checkpoint, "{}: damaged pickle: the file ends before it does (truncated download?). Download it again", source);
    if (n == kMax) fail(Fault::checkpoint, "{}: found a pickle of more than {}, allowed that much", source, format_bytes(kMax));
  }
}

}  // namespace detail

// The tensors of a legacy .bin, which becomes number file_index of the checkpoint. Also what refuses a bare pickle.
inline std::vector<StoredTensor> read_torch_legacy(const File& file, size_t file_index) {
  constexpr std::string_view kMagic{"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10};
  const std::string& path = file.path();
  uint64_t at = 0;
  const Pickle magic = detail::next_pickle(file, at, "magic number");
  if (magic.root().kind != PickleKind::big_integer || magic.digits(magic.root()) != kMagic)
    fail(Fault::checkpoint, "{}: found a pickle of {}, allowed a file that torch.save wrote", path, magic.describe(magic.root()));
  const Pickle version = detail::next_pickle(file, at, "protocol version");
  if (version.root().kind != PickleKind::integer || version.root().at != 1001)
    fail(Fault::checkpoint, "{}: protocol version: found {}, allowed 1001", path,
         version.root().kind == PickleKind::integer ? std::to_string(version.root().at) : version.describe(version.root()));
  const Pickle machine = detail::next_pickle(file, at, "system information");
  if (machine.root().kind != PickleKind::dict)
    fail(Fault::checkpoint, "{}: system information: found {}, allowed a dictionary", path, machine.describe(machine.root()));
  const auto facts = machine.items(machine.root());
  for (size_t i = 0; i + 1 < facts.size(); i += 2)
    if (facts[i].kind == PickleKind::text && machine.text(facts[i]) == "little_endian" &&
        !(facts[i + 1].kind == PickleKind::boolean && facts[i + 1].at == 1))
      fail(Fault::checkpoint, "{}: byte order: found big-endian, allowed little-endian. It was written on another kind of machine", path);

  const std::string source = path + ": pickle";
  const Pickle object = detail::next_pickle(file, at, "pickle");
  const Pickle keys = detail::next_pickle(file, at, "list of storages");
  if (keys.root().kind != PickleKind::list)
    fail(Fault::checkpoint, "{}: list of storages: found {}, allowed a list", path, keys.describe(keys.root()));

  // The file gives each storage's elements but not their size: that is in the ids that the object uses.
  const TorchState state(object, source);
  std::map<std::string_view, TorchStorage> named;
  for (const PickleValue id : object.persistent_ids())
    if (auto s = state.storage(id)) {
      const auto [known, is_new] = named.try_emplace(s->key, *s);
      if (!is_new && (known->second.type != s->type || known->second.numel != s->numel))
        fail(Fault::checkpoint, "{}: storage '{}': found {} elements of {}, elsewhere {} of {}", path, printable(s->key), s->numel,
             printable(s->type), known->second.numel, printable(known->second.type));
    }
  std::map<std::string_view, uint64_t> offsets;
  for (const PickleValue key : keys.items(keys.root())) {
    const auto s = key.kind == PickleKind::text ? named.find(keys.text(key)) : named.end();
    if (s == named.end())
      fail(Fault::checkpoint, "{}: list of storages: '{}' is used by no tensor, so its size is unknown", path,
           key.kind == PickleKind::text ? printable(keys.text(key)) : keys.describe(key));
    const TorchStorage& storage = s->second;
    if (!storage.format)
      fail(Fault::checkpoint, "{}: storage '{}': found class '{}', which is not known, so its size is not either", path, printable(storage.key),
           printable(storage.type));
    const auto truncated = [&] {
      fail(Fault::checkpoint, "{}: storage '{}' passes the end of the file (byte {}): truncated or incomplete download. Download it again", path,
           printable(storage.key), file.size());
    };
    std::string count(8, '\0');
    if (file.size() - at < count.size()) truncated();
    file.read(at, std::as_writable_bytes(std::span(count)));
    const uint64_t bytes = checked_mul(storage.numel, storage.format->bits / 8, path);
    if (load_le<uint64_t>(count, 0) != storage.numel)
      fail(Fault::checkpoint, "{}: storage '{}': found {} elements, allowed {} as the pickle says", path, printable(storage.key),
           load_le<uint64_t>(count, 0), storage.numel);
    at += count.size();
    if (file.size() - at < bytes) truncated();
    if (!offsets.emplace(storage.key, at).second) fail(Fault::checkpoint, "{}: list of storages: '{}' is given twice", path, printable(storage.key));
    at += bytes;
  }
  if (at != file.size())
    fail(Fault::checkpoint, "{}: {} bytes at byte {}, after the last storage, belong to no tensor", path, with_commas(file.size() - at), at);

  return state.tensors(file_index, [&](const TorchStorage& s) {
    const auto found = offsets.find(s.key);
    if (found == offsets.end()) fail(Fault::checkpoint, "{}: storage '{}' is named but not in the file", path, printable(s.key));
    return TorchStoragePlace{found->second};
  });
}

}  // namespace flexgen
