// SPDX-License-Identifier: Apache-2.0
// Zip archives byte by byte, good ones as PyTorch writes them, and any field wrong.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "flexgen/format/crc32.h"
#include "support/byte_writer.h"

namespace flexgen::testing {

struct ZipItem {
  std::string name;
  std::string data;
  uint16_t flags = 0x0808;  // descriptor, UTF-8
  uint16_t method = 0;
  std::optional<uint32_t> crc{};
  std::optional<std::string> local_name{};
  std::optional<uint16_t> local_flags{};
  std::string local_extra{};  // besides the padding
  std::string central_extra{};
  bool zip64 = false;                      // sizes and offset of the central header in a zip64 field, descriptor of 24 bytes
  std::optional<uint32_t> central_size{};  // in place of both sizes
  std::optional<std::string> descriptor{};
  size_t padding = 0;  // bytes of the FB field that PyTorch aligns data with
};

struct ZipForm {
  bool zip64 = false;     // zip64 record and locator
  std::string before{};   // bytes before the first entry, offsets adjusted
  std::string between{};  // after the entries
  std::string comment{};
  std::optional<uint16_t> n_entries{};
};

inline std::string zip_file(const std::vector<ZipItem>& items, const ZipForm& form = {}) {
  std::string out = form.before, directory;
  for (const ZipItem& i : items) {
    const uint32_t crc = i.crc.value_or(crc32(std::as_bytes(std::span(i.data))));
    const bool described = i.flags & 8;
    const std::string padding = i.padding ? cat("FB", u16(i.padding), std::string(i.padding, 'Z')) : "";
    const std::string local_name = i.local_name.value_or(i.name), local_extra = cat(i.local_extra, padding);
    const size_t at = out.size();
    out += cat("PK\3\4", u16(0), u16(i.local_flags.value_or(i.flags)), u16(i.method), u32(0), u32(described ? 0 : crc),
               u32(described ? 0 : i.data.size()), u32(described ? 0 : i.data.size()), u16(local_name.size()), u16(local_extra.size()), local_name,
               local_extra, i.data);
    if (described)
      out += i.descriptor.value_or(
          cat("PK\7\10", u32(crc), i.zip64 ? u64(i.data.size()) : u32(i.data.size()), i.zip64 ? u64(i.data.size()) : u32(i.data.size())));
    const std::string extra = cat(i.central_extra, i.zip64 ? cat(u16(1), u16(24), u64(i.data.size()), u64(i.data.size()), u64(at)) : "");
    const uint32_t size = i.central_size.value_or(i.zip64 ? 0xFFFFFFFF : static_cast<uint32_t>(i.data.size()));
    directory += cat("PK\1\2", u16(0), u16(0), u16(i.flags), u16(i.method), u32(0), u32(crc), u32(size), u32(size), u16(i.name.size()),
                     u16(extra.size()), u16(0), u16(0), u16(0), u32(0), u32(i.zip64 ? 0xFFFFFFFF : at), i.name, extra);
  }
  out += form.between;
  const size_t at = out.size();
  out += directory;
  const uint64_t n = form.n_entries.value_or(static_cast<uint16_t>(items.size()));
  if (form.zip64) {
    const size_t record = out.size();
    out += cat("PK\6\6", u64(44), u16(0), u16(0), u32(0), u32(0), u64(n), u64(n), u64(directory.size()), u64(at));
    out += cat("PK\6\7", u32(0), u64(record), u32(1));
  }
  return cat(out, "PK\5\6", u16(0), u16(0), u16(n), u16(n), u32(directory.size()), u32(form.zip64 ? 0xFFFFFFFF : at), u16(form.comment.size()),
             form.comment);
}

}  // namespace flexgen::testing
