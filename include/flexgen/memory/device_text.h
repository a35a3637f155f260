// SPDX-License-Identifier: Apache-2.0
// Cards in words: how they are listed, and what is said where one has too little memory.
#pragma once

#include <cstdint>
#include <string>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/memory/device.h"

namespace flexgen {

// "cuda:0  NVIDIA H200, sm_90, 132 multiprocessors, 139.8 GiB"
inline std::string to_string(const DeviceInfo& i) {
  return fmt::format("cuda:{}  {}, sm_{}, {} multiprocessors, {:.1f} GiB", i.index, printable(i.name), i.arch, i.multiprocessors,
                     static_cast<double>(i.total_bytes) / static_cast<double>(1_GiB));
}

// What a message begins with: "cuda:0 (NVIDIA H200)"
inline std::string name_of(const DeviceInfo& i) { return fmt::format("cuda:{} ({})", i.index, printable(i.name)); }

[[noreturn]] inline void out_of_device_memory(const DeviceInfo& i, uint64_t asked_bytes, uint64_t free_bytes) {
  fail(Fault::space, "{}: memory of the card: found {} free of {}, {} were asked for. Lower --gpu-memory or end other programs on that card",
       name_of(i), format_bytes(free_bytes), format_bytes(i.total_bytes), format_bytes(asked_bytes));
}

}  // namespace flexgen
