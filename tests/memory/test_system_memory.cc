// SPDX-License-Identifier: Apache-2.0
#include "flexgen/memory/system_memory.h"

#include <unistd.h>

#include "support/catch.h"
#include "support/temp_dir.h"

using namespace flexgen;

namespace {
constexpr uint64_t kGiB = 1u << 30;
const char* const kMeminfo = "MemTotal:       33554432 kB\nMemFree:         1000 kB\nMemAvailable:   16777216 kB\n";  // 16 GiB available
}  // namespace

TEST_CASE("without limits, what the system has available", "[memory]") {
  const testing::TempDir t;
  t.write("proc/meminfo", kMeminfo);
  CHECK(available_memory(t.path() + "/") == 16 * kGiB);
  t.write("proc/self/cgroup", "0::/\n");
  CHECK(available_memory(t.path() + "/") == 16 * kGiB);
}

TEST_CASE("cgroup v2: the tightest of the process's group and those above, file cache not counted", "[memory]") {
  const testing::TempDir t;
  t.write("proc/meminfo", kMeminfo);
  t.write("proc/self/cgroup", "0::/a/b\n");
  t.write("sys/fs/cgroup/a/b/memory.max", "max\n");
  t.write("sys/fs/cgroup/a/b/memory.current", "1073741824\n");
  CHECK(available_memory(t.path() + "/") == 16 * kGiB);
  t.write("sys/fs/cgroup/a/memory.max", "6442450944\n");  // 6 GiB
  t.write("sys/fs/cgroup/a/memory.current", "3221225472\n");
  t.write("sys/fs/cgroup/a/memory.stat", "anon 1\nfile 2\ninactive_file 1073741824\nactive_file 1073741824\n");
  CHECK(available_memory(t.path() + "/") == 5 * kGiB);
  t.write("sys/fs/cgroup/a/b/memory.high", "2147483648\n");
  CHECK(available_memory(t.path() + "/") == kGiB);
  t.write("sys/fs/cgroup/a/b/memory.current", "3221225472\n");  // over it already
  CHECK(available_memory(t.path() + "/") == 0);
}

TEST_CASE("without /proc, what the system call says", "[memory]") {
  const testing::TempDir bare;
  CHECK(available_memory(bare.path() + "/") > 0);
}

TEST_CASE("cgroup v1", "[memory]") {
  const testing::TempDir t;
  t.write("proc/meminfo", kMeminfo);
  t.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job\n1:name=systemd:/\n");
  t.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  t.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "99999999\n");
  t.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4294967296\n");
  t.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "2147483648\n");
  CHECK(available_memory(t.path() + "/") == 2 * kGiB);
  // usage is told with the groups below, the cache under total_ names alone
  t.write("sys/fs/cgroup/memory/job/memory.stat",
          "cache 1\ninactive_file 0\nactive_file 4096\ntotal_inactive_file 536870912\ntotal_active_file 536870912\n");
  CHECK(available_memory(t.path() + "/") == 3 * kGiB);
}

TEST_CASE("what is in memory now, and what of it the system could drop", "[memory]") {
  const testing::TempDir t;
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  t.write("proc/self/statm", "5000 300 120 1 0 400 0\n");
  CHECK(resident_memory(t.path() + "/").bytes == 300 * page);
  CHECK(resident_memory(t.path() + "/").file_bytes == 120 * page);
  t.write("proc/self/statm", "");
  CHECK(resident_memory(t.path() + "/").bytes == 0);
  const ResidentMemory now = resident_memory();
  CHECK(now.file_bytes > 0);
  CHECK(now.bytes > now.file_bytes);
}
