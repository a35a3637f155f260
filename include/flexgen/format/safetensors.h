// SPDX-License-Identifier: Apache-2.0
// The safetensors container (huggingface/safetensors README.md and safetensors/src/tensor.rs):
//
//   0   8   N: bytes of the header, little-endian, at most 100,000,000
//   8   N   JSON: {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"key": "text"}};
//           begins with '{', may end in spaces
//   8+N     data: the tensors row-major, little-endian; they tile it without gap and overlap
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/format/foreign.h"
#include "flexgen/format/json.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/io/file.h"

namespace flexgen {

namespace detail {

struct SafetensorsEntry {
  StoredTensor tensor;
  uint64_t begin = 0, end = 0;  // bytes from the start of the data
};

inline SafetensorsEntry safetensors_entry(const std::string& name, const nlohmann::json& info, const std::string& path) {
  SafetensorsEntry e;
  StoredTensor& t = e.tensor;
  t.name = name;
  const std::string what = fmt::format("{}: {}", path, quoted(t));
  const JsonFields fields(info, what);

  const std::string dtype = fields.text("dtype");
  const auto* format = std::find_if(kStoredFormats.begin(), kStoredFormats.end(),
                                    [&](const StoredFormat& f) { return dtype == f.safetensors || (f.name == "f6" && dtype == "F6_E3M2"); });
  if (dtype.empty() || format == kStoredFormats.end()) {
    std::string known;
    for (const StoredFormat& f : kStoredFormats)
      if (!f.safetensors.empty()) known += fmt::format("{}{}", known.empty() ? "" : " ", f.safetensors);
    fail(Fault::checkpoint, "{}: data type: found '{}', allowed {}", what, printable(dtype), known);
  }
  t.dtype = format->dtype;
  t.dtype_name = format->name;

  const auto* shape = fields.find("shape");
  if (!shape || !shape->is_array())
    fail(Fault::checkpoint, "{}: shape: found {}, allowed a list of whole numbers", what, shape ? describe(*shape) : "nothing");
  for (size_t i = 0; i < shape->size(); ++i) {
    const auto& d = (*shape)[i];
    if (!d.is_number_unsigned() || d.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      fail(Fault::checkpoint, "{}: dimension {}: found {}, allowed a whole number from 0 to {}", what, i, describe(d), kMaxDimension);
    t.shape.push_back(d.get<int64_t>());
  }
  const auto numel = static_cast<uint64_t>(checked_numel(t, path));
  t.strides.assign(t.shape.size(), 1);
  for (size_t i = t.shape.size(); i-- > 1;) t.strides[i - 1] = t.strides[i] * std::max<int64_t>(t.shape[i], 1);

  const auto* offsets = fields.find("data_offsets");
  if (!offsets || !offsets->is_array() || offsets->size() != 2 || !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned())
    fail(Fault::checkpoint, "{}: data_offsets: found {}, allowed two whole numbers", what, offsets ? printable(offsets->dump()) : "nothing");
  e.begin = (*offsets)[0].get<uint64_t>();
  e.end = (*offsets)[1].get<uint64_t>();
  if (e.begin > e.end) fail(Fault::checkpoint, "{}: data_offsets [{}, {}] run backwards", what, e.begin, e.end);
  const uint64_t bits = checked_mul(numel, format->bits, what);
  if (bits % 8 != 0 || bits / 8 != e.end - e.begin)
    fail(Fault::checkpoint, "{}: shape {} of {} needs {} bytes, data_offsets give {}", what, to_string(t.shape), dtype,
         with_commas(div_up<uint64_t>(bits, 8)), with_commas(e.end - e.begin));
  return e;
}

}  // namespace detail

// The tensors of a safetensors file, which becomes number file_index of the checkpoint. Order: by place in the file.
inline std::vector<StoredTensor> read_safetensors(const File& file, size_t file_index) {
  constexpr uint64_t kMaxHeader = 100'000'000;
  const std::string& path = file.path();
  refuse_foreign(file);
  if (file.size() < 8) fail(Fault::checkpoint, "{}: too short for a safetensors header: found {} bytes, allowed 8 and above", path, file.size());
  std::array<unsigned char, 8> length{};
  file.read(0, std::as_writable_bytes(std::span(length)));
  uint64_t n = 0;
  for (size_t i = 0; i < 8; ++i) n |= static_cast<uint64_t>(length[i]) << (8 * i);
  if (length[0] == 'P' && length[1] == 'K' && length[2] == 3 && length[3] == 4)
    fail(Fault::checkpoint, "{}: found a zip archive, allowed a safetensors file. If PyTorch wrote it, name it pytorch_model.bin", path);
  if (n > kMaxHeader && n <= file.size() - 8)
    fail(Fault::checkpoint, "{}: header: found {} bytes, allowed {}", path, with_commas(n), with_commas(kMaxHeader));
  if (n > file.size() - 8)
    fail(Fault::checkpoint,
         "{}: header length {} exceeds the {} bytes left in the file: no safetensors file, or a truncated download. Download it again", path, n,
         with_commas(file.size() - 8));
  std::string header(n, '\0');
  file.read(8, std::as_writable_bytes(std::span(header)));
  if (header.empty() || header[0] != '{')
    fail(Fault::checkpoint, "{}: header: found {} at byte 8, allowed '{{'", path,
         header.empty() ? "nothing" : fmt::format("0x{:02x}", static_cast<unsigned char>(header[0])));
  const nlohmann::json root = parse_json(header, path + ": header");

  std::vector<detail::SafetensorsEntry> entries;
  for (const auto& [name, info] : root.items()) {
    if (name == "__metadata__") {
      if (!info.is_object()) fail(Fault::checkpoint, "{}: __metadata__: found {}, allowed an object", path, describe(info));
      for (const auto& [key, value] : info.items())
        if (!value.is_string()) fail(Fault::checkpoint, "{}: __metadata__.{}: found {}, allowed a string", path, printable(key), describe(value));
      continue;
    }
    entries.push_back(detail::safetensors_entry(name, info, path));
  }

  const uint64_t data = 8 + n, data_bytes = file.size() - data;
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  std::vector<StoredTensor> out;
  out.reserve(entries.size());
  uint64_t at = 0;  // end of what has been seen
  for (detail::SafetensorsEntry& e : entries) {
    if (e.end > data_bytes)
      fail(Fault::checkpoint, "{}: {} ends at byte {}, the file has {}: truncated or incomplete download. Download it again", path, quoted(e.tensor),
           e.end <= UINT64_MAX - data ? with_commas(data + e.end) : "2^64 and above", with_commas(file.size()));
    if (e.begin < at)
      fail(Fault::checkpoint, "{}: {} and {} share bytes {} to {} of the data", path, quoted(out.back()), quoted(e.tensor), e.begin,
           std::max(e.begin, std::min(at, e.end) - 1));
    if (e.begin > at) fail(Fault::checkpoint, "{}: {} bytes at byte {} of the data belong to no tensor", path, with_commas(e.begin - at), at);
    at = e.end;
    e.tensor.file = file_index;
    e.tensor.offset = data + e.begin;
    out.push_back(std::move(e.tensor));
  }
  if (at < data_bytes) fail(Fault::checkpoint, "{}: {} bytes at byte {} of the data belong to no tensor", path, with_commas(data_bytes - at), at);
  return out;
}

}  // namespace flexgen
