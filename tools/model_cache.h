// SPDX-License-Identifier: Apache-2.0
// Checkpoints that were converted on the way: a folder given as --model becomes a model file in the user's cache, once.
//
//   $XDG_CACHE_HOME/flexgen/           (~/.cache/flexgen)
//     opt-125m-0123456789abcdef.flex   the model file; the digits are a hash of the folder's path
//     opt-125m-0123456789abcdef.json   where it came from: {"source", "fingerprint", "bytes", "modified_ns"}; its time is that of the last use
//     opt-125m-0123456789abcdef.lock   held by the run that converts or removes it
//
// An entry counts while the fingerprint of its folder is the same: names, sizes and times of all its files, and the content of the small
// ones. Otherwise it is converted again in place. The model file is complete before its .json names it, so a killed run leaves no entry.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/format/json.h"
#include "flexgen/io/file.h"
#include "tools/interrupt.h"

namespace flexgen::tools {

// Files up to this size count by their content too: configs and tokenizers, but not weights.
inline constexpr uint64_t kHashedFileBytes = 8_MiB;

namespace detail {

namespace fs = std::filesystem;

inline int64_t modified_ns(const struct stat& st) { return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec; }

inline std::string hex(uint64_t v) { return fmt::format("{:016x}", v); }

// Names, sizes, times and small contents of the folder's files, in one hash. Hidden files and model files do not count: they are not
// part of a checkpoint.
inline std::string fingerprint(const std::string& folder) {
  std::map<std::string, std::string> files;  // sorted by name
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.') || name.ends_with(".flex")) continue;
    struct stat st {};
    if (::stat(it->path().c_str(), &st) != 0 || !S_ISREG(st.st_mode)) continue;
    std::string entry = fmt::format("{} {}", st.st_size, modified_ns(st));
    if (static_cast<uint64_t>(st.st_size) <= kHashedFileBytes) {
      const std::string text = read_text_file(it->path().string(), kHashedFileBytes);
      entry += " " + hex(XXH3_64bits(text.data(), text.size()));
    }
    files.emplace(name, std::move(entry));
  }
  if (error) fail(Fault::io, "{}: cannot be listed: {}", folder, error.message());
  std::string all;
  for (const auto& [name, entry] : files) all += fmt::format("{}\n{} {}\n", name.size(), name, entry);  // no two listings give one text
  return hex(XXH3_64bits_withSeed(all.data(), all.size(), 1)) + hex(XXH3_64bits_withSeed(all.data(), all.size(), 2));
}

}  // namespace detail

struct CacheEntry {
  std::string name;      // opt-125m-0123456789abcdef
  std::string path;      // of the model file
  std::string source;    // the folder it was made from; empty where that is not known
  uint64_t bytes = 0;
  int64_t last_use_s = 0;  // since 1970
};

class ModelCache {
 public:
  // Writes a model file of the checkpoint in the folder; an older one under that name is replaced.
  using Convert = std::function<void(const std::string& folder, const std::string& model_file)>;

  explicit ModelCache(std::string folder) : folder_(std::move(folder)) {}

  // $XDG_CACHE_HOME/flexgen, or ~/.cache/flexgen. Neither is set: Fault::usage.
  static std::string default_folder() {
    const char* xdg = std::getenv("XDG_CACHE_HOME");
    if (xdg && xdg[0] == '/') return std::string(xdg) + "/flexgen";  // a relative path is ignored (XDG Base Directory Specification)
    const char* home = std::getenv("HOME");
    if (!home || home[0] != '/')
      fail(Fault::usage, "XDG_CACHE_HOME: found nothing, and no HOME either, allowed a folder for converted models. Set it");
    return std::string(home) + "/.cache/flexgen";
  }

  const std::string& folder() const { return folder_; }

  struct Found {
    std::string path;        // of the model file
    bool converted = false;  // by this call
  };

  // The model file of a checkpoint folder. Converts where there is none, or where the folder has changed; while another run is at it,
  // waits for that (on_wait is called first). Throws Fault::interrupted when the wait is.
  Found get(const std::string& source, const Convert& convert, const std::function<void()>& on_wait = [] {}) const {
    const std::string real = canonical(source), name = name_of(real), path = file(name, ".flex");
    const std::string wanted = detail::fingerprint(real);
    if (usable(name, wanted)) return {path, false};
    make_folder();
    const Fd lock = lock_entry(name, on_wait);
    if (usable(name, wanted)) return {path, false};  // converted while we waited
    ::unlink(file(name, ".json").c_str());           // from here on the old model file counts no more
    convert(real, path);
    write_note(name, real, wanted);
    return {path, true};
  }

  // All entries, the one used last first
  std::vector<CacheEntry> list() const {
    std::vector<CacheEntry> entries;
    std::error_code error;
    for (detail::fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (name.starts_with('.') || !name.ends_with(".flex")) continue;
      if (auto e = entry(name.substr(0, name.size() - 5))) entries.push_back(std::move(*e));
    }
    std::sort(entries.begin(), entries.end(), [](const CacheEntry& a, const CacheEntry& b) {
      return a.last_use_s != b.last_use_s ? a.last_use_s > b.last_use_s : a.name < b.name;
    });
    return entries;
  }

  // Removes an entry, given by its name, its model file or its source folder. Unknown: Fault::usage; being converted: Fault::locked.
  // A run that has the file open keeps it until it ends.
  CacheEntry remove(const std::string& which) const {
    std::error_code ignored;
    const std::string real = detail::fs::weakly_canonical(which, ignored).string();
    const std::string stem = which.ends_with(".flex") ? which.substr(0, which.size() - 5) : which;
    for (const CacheEntry& e : list())
      if (e.name == stem || e.source == real || (!real.empty() && detail::fs::weakly_canonical(e.path, ignored).string() == real)) {
        remove_files(e.name);
        return e;
      }
    fail(Fault::usage, "{}: no such entry in {}. Run flexgen cache list", printable(which), folder_);
  }

  // Removes all entries and what killed conversions left. An entry that is being converted is a Fault::locked; those before it are gone.
  std::vector<CacheEntry> remove_all() const {
    const std::vector<CacheEntry> entries = list();
    std::map<std::string, bool> names;
    for (const CacheEntry& e : entries) names[e.name];
    std::error_code error;
    for (detail::fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
      std::string name = it->path().filename().string();
      for (const std::string_view tail : {".flex.partial", ".json.partial", ".json", ".lock"})
        if (name.ends_with(tail)) {
          name.resize(name.size() - tail.size());
          names[name.substr(name.starts_with('.') ? 1 : 0)];
          break;
        }
    }
    for (const auto& [name, unused] : names) remove_files(name);
    return entries;
  }

 private:
  std::string file(const std::string& name, std::string_view tail) const { return folder_ + "/" + name + std::string(tail); }

  static std::string canonical(const std::string& source) {
    std::error_code error;
    const std::string real = detail::fs::canonical(source, error).string();
    if (error) fail(Fault::io, "{}: cannot be found: {}", source, error.message());
    return real;
  }

  // Letters of the folder's name that are safe in any file name, and a hash of its path
  static std::string name_of(const std::string& real) {
    std::string name = detail::fs::path(real).filename().string().substr(0, 80);
    for (char& c : name)
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '_';
    while (name.starts_with('.')) name.erase(0, 1);
    return (name.empty() ? "model" : name) + "-" + detail::hex(XXH3_64bits(real.data(), real.size()));
  }

  void make_folder() const {
    std::error_code error;
    detail::fs::create_directories(folder_, error);
    if (error)
      fail(Fault::io, "{}: cannot be created: {}. Set XDG_CACHE_HOME to a folder that can be written, or run flexgen convert", folder_,
           error.message());
  }

  // What the note of an entry says; null where it is absent or not one
  nlohmann::json note(const std::string& name) const {
    try {
      nlohmann::json n = parse_json(read_text_file(file(name, ".json"), 1_MiB), file(name, ".json"));
      const bool whole = n.is_object() && n.contains("source") && n["source"].is_string() && n.contains("fingerprint") &&
                         n["fingerprint"].is_string() && n.contains("bytes") && n["bytes"].is_number_unsigned() && n.contains("modified_ns") &&
                         n["modified_ns"].is_number_integer();
      return whole ? n : nlohmann::json();
    } catch (const Error&) {
      return nullptr;
    }
  }

  // An entry whose folder has this fingerprint, and whose model file is the one that was noted; its last use is now.
  bool usable(const std::string& name, const std::string& wanted) const {
    const nlohmann::json n = note(name);
    struct stat st {};
    if (n.is_null() || n["fingerprint"] != wanted || ::stat(file(name, ".flex").c_str(), &st) != 0) return false;
    if (n["bytes"] != static_cast<uint64_t>(st.st_size) || n["modified_ns"] != detail::modified_ns(st)) return false;
    ::utimensat(AT_FDCWD, file(name, ".json").c_str(), nullptr, 0);
    return true;
  }

  void write_note(const std::string& name, const std::string& source, const std::string& fingerprint) const {
    struct stat st {};
    if (::stat(file(name, ".flex").c_str(), &st) != 0) fail(Fault::io, "{}: cannot be examined: {}", file(name, ".flex"), std::strerror(errno));
    const nlohmann::json n{
        {"source", source}, {"fingerprint", fingerprint}, {"bytes", static_cast<uint64_t>(st.st_size)}, {"modified_ns", detail::modified_ns(st)}};
    const std::string text = n.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";  // a path need not be UTF-8
    const std::string partial = file("." + name, ".json.partial");
    Fd fd(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!fd) fail(Fault::io, "{}: cannot be written: {}", partial, std::strerror(errno));
    File(std::move(fd), partial, text.size()).write(0, std::as_bytes(std::span(text)));
    if (::rename(partial.c_str(), file(name, ".json").c_str()) != 0) fail(Fault::io, "{}: cannot be renamed: {}", partial, std::strerror(errno));
  }

  // Holds the entry until the Fd closes. wait: until its owner is done; otherwise that is a Fault::locked.
  Fd lock_entry(const std::string& name, const std::function<void()>& on_wait, bool wait = true) const {
    const std::string path = file(name, ".lock");
    bool told = false;
    for (;;) {
      Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
      if (!fd) fail(Fault::io, "{}: cannot be written: {}. Set XDG_CACHE_HOME to a folder that can be", path, std::strerror(errno));
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) fail(Fault::io, "{}: cannot be locked: {}", path, std::strerror(errno));
        if (!wait) fail(Fault::locked, "{}: is being converted by another process. Wait for it", file(name, ".flex"));
        if (!std::exchange(told, true)) on_wait();
        while (::flock(fd.get(), LOCK_EX) != 0) {
          if (errno != EINTR) fail(Fault::io, "{}: cannot be locked: {}", path, std::strerror(errno));
          if (interrupted) fail(Fault::interrupted, "interrupted while another run was converting {}", file(name, ".flex"));
        }
      }
      // its owner may have removed the lock file between open and lock: then a newer one is the lock
      struct stat ours {}, named {};
      if (::fstat(fd.get(), &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino) return fd;
    }
  }

  std::optional<CacheEntry> entry(const std::string& name) const {
    struct stat st {};
    CacheEntry e{name, file(name, ".flex"), "", 0, 0};
    if (::stat(e.path.c_str(), &st) != 0) return std::nullopt;  // removed meanwhile
    e.bytes = static_cast<uint64_t>(st.st_size);
    e.last_use_s = st.st_mtim.tv_sec;
    if (const nlohmann::json n = note(name); !n.is_null()) {
      e.source = n["source"].get<std::string>();
      if (::stat(file(name, ".json").c_str(), &st) == 0) e.last_use_s = st.st_mtim.tv_sec;
    }
    return e;
  }

  void remove_files(const std::string& name) const {
    const Fd lock = lock_entry(name, [] {}, false);
    for (const std::string& path :
         {file(name, ".json"), file(name, ".flex"), file("." + name, ".json.partial"), file("." + name, ".flex.partial"), file(name, ".lock")})
      if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail(Fault::io, "{}: cannot be removed: {}", path, std::strerror(errno));
  }

  std::string folder_;
};

}  // namespace flexgen::tools
