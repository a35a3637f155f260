// SPDX-License-Identifier: Apache-2.0
// Pickles and PyTorch files instruction by instruction. Each function gives the bytes that leave one value on the stack.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "support/byte_writer.h"
#include "support/zip_writer.h"

namespace flexgen::testing::pickle {

inline std::string text(const std::string& s) { return cat("X", u32(s.size()), s); }
inline std::string number(int64_t n) {
  if (n >= INT32_MIN && n <= INT32_MAX) return cat("J", u32(static_cast<uint64_t>(n)));
  return cat("\x8a\x08", u64(static_cast<uint64_t>(n)));
}
inline std::string global(const std::string& module, const std::string& name) { return cat("c", module, "\n", name, "\n"); }
inline std::string tuple(const std::vector<std::string>& items) {
  std::string s = "(";
  for (const std::string& i : items) s += i;
  return s + "t";
}
inline std::string numbers(const std::vector<int64_t>& ns) {
  std::string s = "(";
  for (const int64_t n : ns) s += number(n);
  return s + "t";
}
inline std::string call(const std::string& callee, const std::string& arguments) { return cat(callee, arguments, "R"); }
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string s = "}(";
  for (const auto& [k, v] : items) s += text(k) + v;
  return s + "u";
}
// a whole pickle of protocol 2
inline std::string whole(const std::string& value) { return cat("\x80\x02", value, "."); }

inline std::string storage(const std::string& type, const std::string& key, int64_t numel) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), number(numel)}) + "Q";
}
inline std::string ordered_dict() { return call(global("collections", "OrderedDict"), ")"); }
inline std::string tensor(const std::string& a_storage, int64_t first, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              tuple({a_storage, number(first), numbers(shape), numbers(strides), "\x89", ordered_dict()}));
}

// a zip .bin of a pickle and storages (key, bytes)
inline std::string zip_bin(const std::string& whole_pickle, const std::vector<std::pair<std::string, std::string>>& storages) {
  std::vector<ZipItem> items{{.name = "m/data.pkl", .data = whole_pickle}, {.name = "m/byteorder", .data = "little"}};
  for (const auto& [key, bytes] : storages) items.push_back({.name = cat("m/data/", key), .data = bytes});
  items.push_back({.name = "m/version", .data = "3\n"});
  return zip_file(items, {.zip64 = true});
}

// the beginning of a legacy .bin: magic, version, system information
inline std::string legacy_head(const std::string& little_endian = "\x88", const std::string& version = "M\xe9\x03") {
  return cat(std::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15), whole(version),
             whole(dict({{"protocol_version", number(1001)}, {"little_endian", little_endian}, {"type_sizes", dict({{"int", number(4)}})}})));
}
// storage id of a legacy file; view: None ("N") or a tuple
inline std::string legacy_storage(const std::string& type, const std::string& key, int64_t numel, const std::string& view = "N") {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), number(numel), view}) + "Q";
}
inline std::string key_list(const std::vector<std::string>& keys) {
  std::string s = "](";
  for (const std::string& k : keys) s += text(k);
  return whole(s + "e");
}

}  // namespace flexgen::testing::pickle
