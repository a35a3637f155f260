// SPDX-License-Identifier: Apache-2.0
// What this process and the machine's other processes have used so far.
#pragma once

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

namespace flexgen::bench {

// user and system time of all threads, kernel workers of io_uring included
inline double cpu_seconds() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  const auto s = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return s(u.ru_utime) + s(u.ru_stime);
}

// of all threads, given up or taken away
inline uint64_t context_switches() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return static_cast<uint64_t>(u.ru_nvcsw) + static_cast<uint64_t>(u.ru_nivcsw);
}

// CPU time of all processes of the machine, this one included; 0 where the system does not say. What is beyond our own competes.
inline double machine_cpu_seconds() {
  std::ifstream stat("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0;
  if (!(stat >> name >> user >> nice >> system)) return 0;
  return (user + nice + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// The peak counts from now on, where the system can (Linux 4.0)
inline void forget_peak_rss() { std::ofstream("/proc/self/clear_refs") << '5'; }

inline uint64_t peak_rss_bytes() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return static_cast<uint64_t>(u.ru_maxrss) * 1024;  // Linux counts in KiB
}

}  // namespace flexgen::bench
