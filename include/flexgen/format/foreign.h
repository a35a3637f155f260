// SPDX-License-Identifier: Apache-2.0
// What people have under a checkpoint's name that is not one: a Git LFS pointer, a web page, another program's model. Naming it says
// more than any complaint about its bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "flexgen/base/error.h"
#include "flexgen/io/file.h"

namespace flexgen {

// Fails where file is empty or is recognised as something that no reader of PyTorch and safetensors checkpoints takes.
inline void refuse_foreign(const File& file) {
  if (file.size() == 0) fail(Fault::checkpoint, "{}: file is empty (0 bytes), allowed a checkpoint. Download or copy it again", file.path());
  std::array<char, 512> bytes{};
  const std::string_view head(bytes.data(), std::min<uint64_t>(bytes.size(), file.size()));
  file.read(0, std::as_writable_bytes(std::span(bytes)).first(head.size()));
  const auto is = [&](std::string_view magic, size_t at = 0) { return head.size() >= at && head.substr(at, magic.size()) == magic; };

  if (is("version https://git-lfs"))
    fail(Fault::checkpoint, "{}: found a Git LFS pointer, allowed weights. Run git lfs pull in the folder, or download the file itself", file.path());
  std::string text(head.substr(is("\xEF\xBB\xBF") ? 3 : 0));
  text.erase(0, std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml"))
    fail(Fault::checkpoint, "{}: found a web page, allowed weights. The download was answered with a page; download the file again", file.path());

  struct Magic {
    std::string_view bytes;
    size_t at;
    std::string_view what;
  };
  constexpr std::array<Magic, 10> kMagics{
      {{"GGUF", 0, "a GGUF file"},
       {"GGML", 0, "a GGML file"},
       {"ggjt", 0, "a GGML file"},
       {"tjgg", 0, "a GGML file"},
       {"\x89HDF\r\n", 0, "an HDF5 file (TensorFlow or Keras)"},
       {"\x93NUMPY", 0, "a NumPy array"},
       {"\x1F\x8B", 0, "a gzip archive"},
       {"\xFD\x37zXZ", 0, "an xz archive"},
       {"BZh", 0, "a bzip2 archive"},
       {"ustar", 257, "a tar archive (PyTorch wrote these before 0.2; load and save the checkpoint with a newer one)"}}};
  for (const Magic& m : kMagics)
    if (is(m.bytes, m.at)) fail(Fault::checkpoint, "{}: found {}, allowed a PyTorch .bin or a .safetensors file", file.path(), m.what);
}

}  // namespace flexgen
