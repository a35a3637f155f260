// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take: what the system has free, within the limits of every cgroup it is in.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace flexgen {

namespace detail {

inline std::string read_small_file(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// the number after `key` in a text of "key value" lines; "max" and anything else that is no number: nullopt
inline std::optional<uint64_t> number_after(const std::string& text, const std::string& key) {
  size_t at = key.empty() ? 0 : text.find(key);
  if (at == std::string::npos) return std::nullopt;
  at += key.size();
  while (at < text.size() && (text[at] == ' ' || text[at] == '\t')) ++at;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
  return error == std::errc{} ? std::optional(value) : std::nullopt;
}

// What one cgroup leaves: limit - (usage - file cache that can be dropped)
inline std::optional<uint64_t> room_in(const std::string& folder, const char* limit_file, const char* usage_file) {
  const auto limit = number_after(read_small_file(folder + limit_file), "");
  const auto usage = number_after(read_small_file(folder + usage_file), "");
  if (!limit || !usage) return std::nullopt;
  const std::string stat = read_small_file(folder + "/memory.stat");
  // version 1 counts usage with the groups below, but the cache apart from them under the plain names
  const auto file = [&](const std::string& which) {
    return number_after(stat, "\ntotal_" + which + " ").value_or(number_after(stat, "\n" + which + " ").value_or(0));
  };
  const uint64_t cache = file("inactive_file") + file("active_file");
  const uint64_t used = *usage > cache ? *usage - cache : 0;
  return *limit > used ? *limit - used : 0;
}

}  // namespace detail

// Bytes. `root` holds proc/ and sys/fs/cgroup/: "/" but in tests. Limits of cgroup v2 (memory.max, memory.high) and v1
// (memory.limit_in_bytes) are read for the process's cgroup and all above it.
inline uint64_t available_memory(const std::string& root = "/") {
  const auto kib = detail::number_after(detail::read_small_file(root + "proc/meminfo"), "MemAvailable:");
  // where /proc is not mounted (a bare chroot), what the system call says is free
  uint64_t room = kib ? *kib * 1024 : static_cast<uint64_t>(::sysconf(_SC_AVPHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::istringstream groups(detail::read_small_file(root + "proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    const std::string base = root + (v2 ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    for (std::string path = line.substr(second + 1);; path = path.substr(0, path.rfind('/'))) {
      if (path == "/") path.clear();
      if (v2) {
        for (const char* limit : {"/memory.max", "/memory.high"})
          room = std::min(room, detail::room_in(base + path, limit, "/memory.current").value_or(room));
      } else {
        room = std::min(room, detail::room_in(base + path, "/memory.limit_in_bytes", "/memory.usage_in_bytes").value_or(room));
      }
      if (path.empty()) break;
    }
  }
  return room;
}

// Bytes of this process that are in memory now; 0 where the system does not say
struct ResidentMemory {
  uint64_t bytes = 0;
  uint64_t file_bytes = 0;  // of those, mapped from files: available_memory counts them as well, because the system can drop them
};
inline ResidentMemory resident_memory(const std::string& root = "/") {
  std::istringstream pages(detail::read_small_file(root + "proc/self/statm"));  // "size resident shared ..."
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  uint64_t size = 0, resident = 0, shared = 0;
  if (!(pages >> size >> resident >> shared)) return {};
  return {resident * page, std::min(resident, shared) * page};
}

}  // namespace flexgen
