// SPDX-License-Identifier: Apache-2.0
// A File over bytes in memory: what a reader of files needs in tests and fuzz targets that make thousands of them.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "flexgen/io/file.h"

namespace flexgen::testing {

inline File memory_file(std::string_view bytes, std::string name = "model.bin") {
  Fd fd(::memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!fd) throw std::system_error(errno, std::generic_category(), "memfd_create");
  File file(std::move(fd), std::move(name), bytes.size());
  file.write(0, std::as_bytes(std::span(bytes)));
  return file;
}

}  // namespace flexgen::testing
