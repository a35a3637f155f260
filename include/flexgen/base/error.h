// SPDX-License-Identifier: Apache-2.0
// What can go wrong, as the user sees it. Every failure carries a Fault, which decides the exit code, and a message of the form
//   <file>: <what>: found X, allowed Y. <what to do>
// Command-line tools print it as `error[E-<fault>]: <message>`.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace flexgen {

enum class Fault {
  usage,        // option, prompt, request
  checkpoint,   // checkpoint, config, tokenizer or model file that cannot be understood
  io,           // the operating system refused to read or write
  space,        // does not fit: memory, GPU memory, disk
  gpu,          // sticky CUDA error
  damaged,      // hash or length differs from what was written
  locked,       // somebody else is at it
  interrupted,  // the user asked to stop
  internal,     // a bug of ours: a broken precondition
};

// Process exit code of a fault; the list is part of the command-line contract (`flexgen --help`).
constexpr int exit_code(Fault f) {
  switch (f) {
    case Fault::usage: return 2;
    case Fault::checkpoint: return 3;
    case Fault::io: return 4;
    case Fault::space: return 5;
    case Fault::gpu: return 6;
    case Fault::damaged: return 7;
    case Fault::locked: return 8;
    case Fault::interrupted: return 130;
    case Fault::internal: return 70;
  }
  return 70;
}

constexpr std::string_view name(Fault f) {
  switch (f) {
    case Fault::usage: return "usage";
    case Fault::checkpoint: return "checkpoint";
    case Fault::io: return "io";
    case Fault::space: return "space";
    case Fault::gpu: return "gpu";
    case Fault::damaged: return "damaged";
    case Fault::locked: return "locked";
    case Fault::interrupted: return "interrupted";
    case Fault::internal: return "internal";
  }
  return "internal";
}

class Error : public std::runtime_error {
 public:
  Error(Fault fault, std::string message) : std::runtime_error(std::move(message)), fault_(fault) {}
  Fault fault() const noexcept { return fault_; }

 private:
  Fault fault_;
};

// throws Error{fault, formatted message}
template <typename... Args>
[[noreturn]] void fail(Fault fault, fmt::format_string<Args...> form, Args&&... args) {
  throw Error(fault, fmt::format(form, std::forward<Args>(args)...));
}

// A name read from a file, made safe for a terminal: control bytes and bytes outside ASCII that do not form UTF-8 as \xNN,
// cut at 120 bytes.
inline std::string printable(std::string_view name) {
  constexpr size_t kLimit = 120;
  std::string out;
  size_t i = 0;
  while (i < name.size() && out.size() < kLimit) {
    const auto c = static_cast<unsigned char>(name[i]);
    size_t n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    for (size_t k = 1; k < n; ++k)
      if (i + k >= name.size() || (static_cast<unsigned char>(name[i + k]) & 0xC0) != 0x80) n = 0;
    const bool control = c < 0x20 || c == 0x7F || (n == 2 && c == 0xC2 && static_cast<unsigned char>(name[i + 1]) < 0xA0) ||
                         (n == 3 && c == 0xE2 && (name.substr(i, 3) >= "\xE2\x80\xAA" && name.substr(i, 3) <= "\xE2\x80\xAE"));
    if (n == 0 || control) {
      const size_t bytes = n == 0 ? 1 : n;
      for (size_t k = 0; k < bytes; ++k) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(name[i + k]));
      i += bytes;
    } else {
      out.append(name.substr(i, n));
      i += n;
    }
  }
  if (i < name.size()) out += "...";
  return out;
}

}  // namespace flexgen

// A precondition that a caller broke: always on, throws Error{internal} with place, expression and values.
// FG_CHECK(a.rows == b.rows, "a has {} rows, b {}", a.rows, b.rows)
#define FG_CHECK(condition, ...)                                                                                        \
  do {                                                                                                                  \
    if (!(condition)) [[unlikely]]                                                                                      \
      ::flexgen::fail(::flexgen::Fault::internal, "{}:{}: {} does not hold: {}", __FILE__, __LINE__, #condition,        \
                      ::fmt::format(__VA_ARGS__));                                                                      \
  } while (false)
