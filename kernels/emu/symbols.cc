// SPDX-License-Identifier: Apache-2.0
// See symbols.h.
#include "kernels/emu/symbols.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

extern "C" const char __executable_start;  // set by the linker

namespace flexgen::emu {
namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

bool is_vocabulary(std::string_view path) {
  for (const std::string_view part : {"/kernels/emu/", "/cuda/core/vocab", "/cuda_", "/vector_", "/c++/"})
    if (path.find(part) != path.npos) return true;
  return false;
}

// "void ns::kernel<...>(int) [clone .isra]" -> "ns::kernel<...>"
std::string without_arguments(std::string_view name) {
  int depth = 0;
  size_t end = name.size();
  for (size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<';
    depth -= name[i] == '>';
    if (name[i] == '(' && depth == 0 && name.substr(i).find("anonymous namespace") != 1) {
      end = i;
      break;
    }
  }
  name = name.substr(0, end);
  depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    depth += name[i] == '>';
    depth -= name[i] == '<';
    if (name[i] == ' ' && depth == 0 && !name.substr(0, i).ends_with("(anonymous")) {
      name.remove_prefix(i + 1);
      break;
    }
  }
  return std::string(name);
}

std::vector<std::string> lines_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::vector<std::string> lines;
  if (!pipe) return lines;
  std::array<char, 4096> buffer;
  while (fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
    std::string line = buffer.data();
    if (line.ends_with('\n')) line.pop_back();
    lines.push_back(std::move(line));
  }
  return lines;
}

Symbol ask(const void* pc) {
  const auto address = reinterpret_cast<uintptr_t>(pc) - reinterpret_cast<uintptr_t>(&__executable_start);
  const auto lines = lines_of(fmt::format("addr2line -f -C -i -e /proc/{}/exe {:#x} 2>/dev/null", getpid(), address));
  Symbol found;
  for (size_t i = 0; i + 1 < lines.size(); i += 2) {  // a function and its place a frame, innermost first
    std::string_view place = lines[i + 1];
    if (const size_t extra = place.find(" ("); extra != place.npos) place = place.substr(0, extra);
    const size_t colon = place.rfind(':');
    if (colon == place.npos || lines[i] == "??") continue;
    int line = 0;
    std::from_chars(place.data() + colon + 1, place.data() + place.size(), line);
    const bool better = found.function.empty() || !is_vocabulary(place.substr(0, colon));
    if (better) found = {without_arguments(lines[i]), line > 0 ? std::string(base_name(place.substr(0, colon))) : std::string(), line};
    if (!is_vocabulary(place.substr(0, colon))) break;
  }
  return found;
}

}  // namespace

Symbol symbol_of(const void* pc) {
  static std::mutex mutex;
  static std::unordered_map<const void*, Symbol> known;
  const std::lock_guard lock(mutex);
  const auto [at, fresh] = known.try_emplace(pc);
  if (fresh) at->second = ask(pc);
  return at->second;
}

std::string line_text(const Location& where, const void* pc) {
  if (where.file != nullptr) return fmt::format("{}:{}", base_name(where.file), where.line);
  if (pc == nullptr) return "end of block";
  const Symbol s = symbol_of(static_cast<const char*>(pc) - 1);  // a return address: the call is before it
  if (!s.file.empty()) return fmt::format("{}:{}", s.file, s.line);
  return fmt::format("program counter {:#x}", reinterpret_cast<uintptr_t>(pc) - reinterpret_cast<uintptr_t>(&__executable_start));
}

}  // namespace flexgen::emu
