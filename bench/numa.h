// SPDX-License-Identifier: Apache-2.0
// Whether memory lies on the same NUMA node as the disk that fills it.
#pragma once

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

namespace flexgen::bench {

struct NumaNodes {
  int nodes = 1;                    // of the machine
  std::optional<int> memory, disk;  // nullopt: the system does not say

  std::optional<bool> match() const {
    if (nodes == 1) return true;
    return memory && disk ? std::optional(*memory == *disk) : std::nullopt;
  }
};

// memory: has been touched; fd: of a file on the disk
inline NumaNodes numa_nodes(const void* memory, int fd) {
  NumaNodes n;
  std::error_code none;
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", none)) {
    const std::string name = entry.path().filename();
    count += name.starts_with("node") && name.find_first_not_of("0123456789", 4) == std::string::npos && name.size() > 4;
  }
  n.nodes = std::max(1, count);
  constexpr int kNode = 1, kAddress = 2;  // MPOL_F_NODE, MPOL_F_ADDR
  int node = -1;
  if (::syscall(SYS_get_mempolicy, &node, nullptr, 0UL, memory, kNode | kAddress) == 0 && node >= 0) n.memory = node;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return n;
  // a partition's device is the disk above it
  for (const char* device : {"/device/numa_node", "/../device/numa_node"}) {
    std::ifstream file(fmt::format("/sys/dev/block/{}:{}{}", major(st.st_dev), minor(st.st_dev), device));
    if (file >> node && node >= 0) n.disk = node;
  }
  return n;
}

}  // namespace flexgen::bench
