// SPDX-License-Identifier: Apache-2.0
// Quotas of control groups, read from folders laid out as the kernel does.
#include "tools/cpu_count.h"

#include "support/catch.h"
#include "support/temp_dir.h"

using namespace flexgen::tools;

TEST_CASE("without a quota there is no limit") {
  flexgen::testing::TempDir root;
  CHECK_FALSE(quota_cpus(root / ""));
  root.write("proc/self/cgroup", "0::/user.slice/job\n");
  root.write("sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n");
  CHECK_FALSE(quota_cpus(root / ""));
}

TEST_CASE("the least quota of the group and those above it counts, rounded up") {
  flexgen::testing::TempDir root;
  root.write("proc/self/cgroup", "0::/user.slice/job\n");
  root.write("sys/fs/cgroup/user.slice/job/cpu.max", "800000 100000\n");
  CHECK(quota_cpus(root / "") == 8);
  root.write("sys/fs/cgroup/user.slice/cpu.max", "250000 100000\n");
  CHECK(quota_cpus(root / "") == 3);
  root.write("sys/fs/cgroup/cpu.max", "20000 100000\n");
  CHECK(quota_cpus(root / "") == 1);
}

TEST_CASE("the older hierarchy has its own files") {
  flexgen::testing::TempDir root;
  root.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n");
  root.write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "200000\n");
  root.write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  CHECK(quota_cpus(root / "") == 2);
  root.write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "-1\n");
  CHECK_FALSE(quota_cpus(root / ""));
}

TEST_CASE("there is always a CPU to run on") { CHECK(usable_cpus() >= 1); }
