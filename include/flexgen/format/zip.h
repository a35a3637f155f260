// SPDX-License-Identifier: Apache-2.0
// The directory of a zip archive (PKWARE APPNOTE 6.3.9) as PyTorch writes it: stored entries only. Zip readers differ in which of
// several contradicting records they believe; here an archive is taken only if there is one reading of it:
//
//   entry*          local header (30 bytes, name, extra), data, optional descriptor (16 or 24 bytes)
//   directory       central header (46 bytes, name, extra, comment) for each entry
//   zip64 record    56 bytes and more, and its locator of 20 bytes: optional
//   end record      22 bytes, no comment
//
// follow each other without gap from the first byte of the file to the last, and local and central headers agree.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/format/crc32.h"
#include "flexgen/format/little_endian.h"
#include "flexgen/io/file.h"

namespace flexgen {

struct ZipEntry {
  std::string name;
  uint64_t offset = 0;  // of the data, bytes from the start of the file
  uint64_t bytes = 0;   // of the data
  uint32_t crc32 = 0;   // of the data; PyTorch can be told to leave it at 0
  bool has_crc() const { return crc32 != 0 || bytes == 0; }
};

class ZipArchive {
 public:
  // throws Fault::checkpoint
  explicit ZipArchive(const File& file) : file_(file) { read_directory(); }

  // sorted by name, names unique
  std::span<const ZipEntry> entries() const { return entries_; }
  const ZipEntry* find(std::string_view name) const {
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), name, [](const ZipEntry& e, std::string_view n) { return e.name < n; });
    return at != entries_.end() && at->name == name ? &*at : nullptr;
  }

  // The data of a small entry, its CRC checked. Larger than limit_bytes is a Fault::checkpoint, a wrong CRC too.
  std::string read(const ZipEntry& e, uint64_t limit_bytes) const {
    if (e.bytes > limit_bytes) refuse("entry '{}': found {} bytes, allowed {}", printable(e.name), with_commas(e.bytes), with_commas(limit_bytes));
    std::string data(e.bytes, '\0');
    file_.read(e.offset, std::as_writable_bytes(std::span(data)));
    const uint32_t crc = crc32(std::as_bytes(std::span(data)));
    if (e.has_crc() && crc != e.crc32)
      refuse("entry '{}' is damaged: CRC {:08x}, expected {:08x}. Download or copy the file again", printable(e.name), crc, e.crc32);
    return data;
  }

 private:
  static constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kDescriptor = 0x08074b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                            kLocator = 0x07064b50;
  static constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
  static constexpr uint64_t kMaxEntries = 1'000'000, kMaxDirectory = 256_MiB, kMaxName = 1024;
  static constexpr uint16_t kEncrypted = 1, kHasDescriptor = 8, kUtf8 = 0x800;
  static constexpr uint32_t kInExtra = 0xFFFFFFFF;  // the value is in the zip64 field of the extra

  struct Directory {
    uint64_t offset = 0, bytes = 0, n_entries = 0;
  };
  // of the central header; places its local header
  struct Header {
    ZipEntry entry;
    uint64_t local_offset = 0;
    uint16_t flags = 0;
  };

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> form, Args&&... args) const {
    fail(Fault::checkpoint, "{}: {}", file_.path(), fmt::format(form, std::forward<Args>(args)...));
  }

  std::string read_at(uint64_t offset, uint64_t bytes) const {
    std::string s(bytes, '\0');
    file_.read(offset, std::as_writable_bytes(std::span(s)));
    return s;
  }

  Directory find_directory() const {
    const uint64_t size = file_.size();
    const std::string tail = read_at(size - std::min<uint64_t>(size, kEndBytes + 65535), std::min<uint64_t>(size, kEndBytes + 65535));
    if (size < kEndBytes || load_le<uint32_t>(tail, tail.size() - kEndBytes) != kEnd) {
      if (tail.rfind(std::string_view("PK\x05\x06", 4)) == tail.npos)
        refuse("not a complete zip archive: the end record is missing (truncated download?). Download it again");
      refuse("zip archive: bytes or a comment after the end record; refusing an ambiguous archive");
    }
    const std::string_view end = std::string_view(tail).substr(tail.size() - kEndBytes);
    if (load_le<uint16_t>(end, 20) != 0)
      refuse("zip archive: the comment of {} bytes is missing (truncated download?). Download it again", load_le<uint16_t>(end, 20));
    if (load_le<uint16_t>(end, 4) != 0 || load_le<uint16_t>(end, 6) != 0 || load_le<uint16_t>(end, 8) != load_le<uint16_t>(end, 10))
      refuse("zip archive: found a part of an archive on several disks, allowed a whole one");
    Directory d{load_le<uint32_t>(end, 16), load_le<uint32_t>(end, 12), load_le<uint16_t>(end, 10)};
    uint64_t directory_end = size - kEndBytes;

    const bool located = directory_end >= kLocatorBytes + kEnd64Bytes && tail.size() >= kEndBytes + kLocatorBytes &&
                         load_le<uint32_t>(tail, tail.size() - kEndBytes - kLocatorBytes) == kLocator;
    if (!located && (d.offset == kInExtra || d.bytes == kInExtra || d.n_entries == 0xFFFF))
      refuse("zip archive: the end record refers to a zip64 record, which is missing");
    if (located) {
      const std::string_view locator = std::string_view(tail).substr(tail.size() - kEndBytes - kLocatorBytes, kLocatorBytes);
      const uint64_t at = load_le<uint64_t>(locator, 8), locator_at = directory_end - kLocatorBytes;
      if (load_le<uint32_t>(locator, 4) != 0 || load_le<uint32_t>(locator, 16) != 1)
        refuse("zip archive: found a part of an archive on several disks, allowed a whole one");
      if (at > locator_at - kEnd64Bytes) refuse("zip archive: zip64 record: found at byte {}, allowed up to {}", at, locator_at - kEnd64Bytes);
      const std::string record = read_at(at, kEnd64Bytes);
      if (load_le<uint32_t>(record, 0) != kEnd64 || load_le<uint64_t>(record, 4) != locator_at - at - 12)
        refuse("zip archive: zip64 record: found none at byte {} that ends at its locator", at);
      if (load_le<uint32_t>(record, 16) != 0 || load_le<uint32_t>(record, 20) != 0 || load_le<uint64_t>(record, 24) != load_le<uint64_t>(record, 32))
        refuse("zip archive: found a part of an archive on several disks, allowed a whole one");
      const Directory d64{load_le<uint64_t>(record, 48), load_le<uint64_t>(record, 40), load_le<uint64_t>(record, 32)};
      if ((d.offset != kInExtra && d.offset != d64.offset) || (d.bytes != kInExtra && d.bytes != d64.bytes) ||
          (d.n_entries != 0xFFFF && d.n_entries != d64.n_entries))
        refuse("zip archive: end record and zip64 record disagree about the directory");
      d = d64;
      directory_end = at;
    }
    if (d.offset > directory_end || d.bytes != directory_end - d.offset)
      refuse("zip archive: the directory takes {} bytes from byte {}, which does not end at its end record at byte {}; refusing an ambiguous archive",
             d.bytes, d.offset, directory_end);
    if (d.bytes > kMaxDirectory) refuse("zip archive: directory: found {} bytes, allowed {}", with_commas(d.bytes), with_commas(kMaxDirectory));
    if (d.n_entries > kMaxEntries) refuse("zip archive: found {} entries, allowed {}", with_commas(d.n_entries), with_commas(kMaxEntries));
    if (d.n_entries > d.bytes / kCentralBytes) refuse("zip archive: found a directory of {} bytes, too few for {} entries", d.bytes, d.n_entries);
    return d;
  }

  void read_directory() {
    const Directory d = find_directory();
    const std::string bytes = read_at(d.offset, d.bytes);
    std::vector<Header> headers;
    headers.reserve(d.n_entries);
    std::set<std::string> seen;
    size_t at = 0;
    for (uint64_t i = 0; i < d.n_entries; ++i) {
      headers.push_back(central_header(bytes, at));
      std::string folded = headers.back().entry.name;
      for (char& c : folded)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
      if (!seen.insert(std::move(folded)).second)
        refuse("entry '{}' appears twice (capitals count as small letters); refusing an ambiguous archive", printable(headers.back().entry.name));
    }
    if (at != bytes.size()) refuse("zip archive: {} bytes of the directory belong to no entry", bytes.size() - at);
    std::sort(headers.begin(), headers.end(), [](const Header& a, const Header& b) { return a.local_offset < b.local_offset; });
    uint64_t expected = 0;  // where the next local header begins
    for (size_t i = 0; i < headers.size(); ++i) {
      Header& h = headers[i];
      if (h.local_offset > expected)
        refuse("zip archive: {} bytes at byte {} belong to no entry; refusing an ambiguous archive", with_commas(h.local_offset - expected),
               expected);
      if (h.local_offset < expected)
        refuse("entries '{}' and '{}' overlap at byte {}", i ? printable(headers[i - 1].entry.name) : "", printable(h.entry.name), h.local_offset);
      expected = i + 1 < headers.size() ? headers[i + 1].local_offset : d.offset;
      local_header(h, expected,
                   i + 1 < headers.size()
                       ? fmt::format("entries '{}' and '{}' overlap", printable(h.entry.name), printable(headers[i + 1].entry.name))
                       : fmt::format("entry '{}' overlaps the directory", printable(h.entry.name)));
    }
    if (expected != d.offset)
      refuse("zip archive: {} bytes at byte {} belong to no entry; refusing an ambiguous archive", with_commas(d.offset - expected), expected);
    for (Header& h : headers) entries_.push_back(std::move(h.entry));
    std::sort(entries_.begin(), entries_.end(), [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  }

  Header central_header(std::string_view directory, size_t& at) const {
    const size_t start = at;
    if (directory.size() - at < kCentralBytes || load_le<uint32_t>(directory, at) != kCentral)
      refuse("zip archive: entry at byte {} of the directory: found no header", start);
    const std::string_view h = directory.substr(at, kCentralBytes);
    const size_t name_bytes = load_le<uint16_t>(h, 28), extra_bytes = load_le<uint16_t>(h, 30), comment_bytes = load_le<uint16_t>(h, 32);
    if (directory.size() - at - kCentralBytes < name_bytes + extra_bytes + comment_bytes)
      refuse("zip archive: entry at byte {} of the directory: name, extra and comment of {} bytes pass its end", start,
             name_bytes + extra_bytes + comment_bytes);
    Header out;
    out.entry.name = directory.substr(at + kCentralBytes, name_bytes);
    const std::string_view extra = directory.substr(at + kCentralBytes + name_bytes, extra_bytes);
    at += kCentralBytes + name_bytes + extra_bytes + comment_bytes;
    check_name(out.entry.name);

    const std::string name = printable(out.entry.name);
    out.flags = load_le<uint16_t>(h, 8);
    const uint16_t method = load_le<uint16_t>(h, 10);
    if (out.flags & kEncrypted) refuse("entry '{}' is encrypted", name);
    if (method != 0)
      refuse("entry '{}' is compressed (method {}); PyTorch stores weights uncompressed. Unpack it and pack it again without compression (zip -0)",
             name, method);
    if (out.flags & ~(kHasDescriptor | kUtf8)) refuse("entry '{}': flags: found 0x{:04x}, allowed 0x0808", name, out.flags);
    if (load_le<uint16_t>(h, 34) != 0) refuse("entry '{}': found on disk {}, allowed an archive of one", name, load_le<uint16_t>(h, 34));
    out.entry.crc32 = load_le<uint32_t>(h, 16);
    uint64_t stored = load_le<uint32_t>(h, 20), bytes = load_le<uint32_t>(h, 24), local = load_le<uint32_t>(h, 42);
    const std::array<std::pair<uint64_t*, const char*>, 3> wide{{{&bytes, "size"}, {&stored, "stored size"}, {&local, "offset"}}};
    std::string_view field = zip64_field(extra, name).value_or("");
    for (const auto& [value, what] : wide) {
      if (*value != kInExtra) continue;
      if (field.size() < 8) refuse("entry '{}': its zip64 {} is missing", name, what);
      *value = load_le<uint64_t>(field, 0);
      field.remove_prefix(8);
    }
    if (stored != bytes) refuse("entry '{}': found {} stored bytes of {}, allowed the same", name, stored, bytes);
    if (local > file_.size() || bytes > file_.size())
      refuse("entry '{}': {} bytes at byte {} pass the end of the file ({} bytes)", name, bytes, local, file_.size());
    out.entry.bytes = bytes;
    out.local_offset = local;
    return out;
  }

  // the zip64 field of an extra: a list of (id u16, size u16, bytes)
  std::optional<std::string_view> zip64_field(std::string_view extra, const std::string& name) const {
    std::optional<std::string_view> found;
    while (!extra.empty()) {
      if (extra.size() < 4 || load_le<uint16_t>(extra, 2) > extra.size() - 4) refuse("entry '{}': its extra fields pass their end", name);
      const std::string_view field = extra.substr(4, load_le<uint16_t>(extra, 2));
      if (load_le<uint16_t>(extra, 0) == 1) {
        if (found) refuse("entry '{}': found two zip64 fields, allowed one", name);
        found = field;
      }
      extra.remove_prefix(4 + field.size());
    }
    return found;
  }

  void check_name(const std::string& name) const {
    const auto bad = [&](const char* why) { refuse("entry '{}': name {}", printable(name), why); };
    if (name.empty()) bad("is empty");
    if (name.size() > kMaxName) bad("is longer than 1024 bytes");
    if (name.find_first_of(std::string_view("\\\0", 2)) != name.npos) bad("has a backslash or a zero byte");
    if (name[0] == '/' || (name.size() > 1 && name[1] == ':')) bad("is absolute");
    for (size_t from = 0; from < name.size();) {
      const size_t slash = std::min(name.find('/', from), name.size());
      const std::string_view part = std::string_view(name).substr(from, slash - from);
      if (part.empty() || part == "." || part == "..") bad("has an empty part, '.' or '..'");
      from = slash + 1;
    }
  }

  // Reads h's local header, holds it against the central one, sets entry.offset. end: where data and descriptor must end
  void local_header(Header& h, uint64_t end, const std::string& overlap) const {
    ZipEntry& e = h.entry;
    const std::string name = printable(e.name);
    const uint64_t at = h.local_offset;
    if (end - at < kLocalBytes) refuse("{} at byte {}", overlap, end);
    const std::string head = read_at(at, std::min<uint64_t>(kLocalBytes + e.name.size(), end - at));
    if (load_le<uint32_t>(head, 0) != kLocal) refuse("entry '{}': found no local header at byte {}", name, at);
    const uint64_t name_bytes = load_le<uint16_t>(head, 26), extra_bytes = load_le<uint16_t>(head, 28);
    const std::string local_name = head.substr(kLocalBytes, name_bytes);
    if (name_bytes != e.name.size() || local_name != e.name) refuse("entry '{}': its local header says '{}'", name, printable(local_name));
    if (load_le<uint16_t>(head, 6) != h.flags || load_le<uint16_t>(head, 8) != 0)
      refuse("entry '{}': its local header has flags 0x{:04x} and method {}, the directory 0x{:04x} and 0", name, load_le<uint16_t>(head, 6),
             load_le<uint16_t>(head, 8), h.flags);
    const uint64_t before = kLocalBytes + name_bytes + extra_bytes;
    if (end - at < before || end - at - before < e.bytes) refuse("{} at byte {}", overlap, end);
    e.offset = at + before;

    // With a descriptor after the data, the local header's fields may be 0.
    const bool described = (h.flags & kHasDescriptor) != 0;
    const uint32_t crc = load_le<uint32_t>(head, 14);
    uint64_t stored = load_le<uint32_t>(head, 18), bytes = load_le<uint32_t>(head, 22);
    if (!described && (stored == kInExtra || bytes == kInExtra)) {
      const std::string extra = read_at(at + kLocalBytes + name_bytes, extra_bytes);
      const std::string_view field = zip64_field(extra, name).value_or("");
      if (field.size() < 16) refuse("entry '{}': the zip64 sizes of its local header are missing", name);
      bytes = load_le<uint64_t>(field, 0);
      stored = load_le<uint64_t>(field, 8);
    }
    const auto agrees = [&](uint64_t local, uint64_t central) { return local == central || (described && (local == 0 || local == kInExtra)); };
    if (!agrees(crc, e.crc32) || !agrees(stored, e.bytes) || !agrees(bytes, e.bytes))
      refuse("entry '{}': its local header says {} bytes with CRC {:08x}, the directory {} with {:08x}", name, bytes, crc, e.bytes, e.crc32);

    const uint64_t rest = end - e.offset - e.bytes;
    if (rest == 0 && (!described || e.bytes == 0)) return;
    if (!described || (rest != 16 && rest != 24))
      refuse("zip archive: {} bytes at byte {}, after entry '{}', belong to no entry; refusing an ambiguous archive", rest, end - rest, name);
    const std::string descriptor = read_at(end - rest, rest);
    const uint64_t described_stored = rest == 24 ? load_le<uint64_t>(descriptor, 8) : load_le<uint32_t>(descriptor, 8);
    const uint64_t described_bytes = rest == 24 ? load_le<uint64_t>(descriptor, 16) : load_le<uint32_t>(descriptor, 12);
    if (load_le<uint32_t>(descriptor, 0) != kDescriptor || load_le<uint32_t>(descriptor, 4) != e.crc32 || described_stored != e.bytes ||
        described_bytes != e.bytes)
      refuse("entry '{}': the descriptor after its data disagrees with the directory", name);
  }

  const File& file_;
  std::vector<ZipEntry> entries_;
};

}  // namespace flexgen
