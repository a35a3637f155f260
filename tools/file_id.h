// SPDX-License-Identifier: Apache-2.0
// The identity of a new model file: 64 random bits of the system, so that blocks of two files never pass for each other.
#pragma once

#include <sys/random.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "flexgen/base/error.h"

namespace flexgen::tools {

inline uint64_t random_file_id() {
  uint64_t id = 0;
  ssize_t n = 0;
  while ((n = ::getrandom(&id, sizeof(id), 0)) < 0 && errno == EINTR) {}
  if (n != sizeof(id)) fail(Fault::io, "getrandom: the system gives no random bytes: {}", std::strerror(errno));
  return id;
}

}  // namespace flexgen::tools
