// SPDX-License-Identifier: Apache-2.0
#include "bench/disk_roof.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/harness.h"
#include "bench/process_usage.h"
#include "flexgen/io/make_io_engine.h"
#include "flexgen/memory/arena.h"

namespace flexgen::bench {
namespace {

constexpr size_t kRoofChunk = 2_MiB;
constexpr int kRoofDepth = 8;

// Standard output of a program found on PATH; nullopt where it cannot be started or ends with an error
std::optional<std::string> output_of(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  const Fd out(ends[0]);
  Fd in(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, in.get(), 1);
  ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return std::nullopt;
  in.reset();
  std::string text;
  std::array<char, 4096> block;
  for (ssize_t n = 0; (n = ::read(out.get(), block.data(), block.size())) > 0 || (n < 0 && errno == EINTR);)
    if (n > 0) text.append(block.data(), static_cast<size_t>(n));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return text;
}

}  // namespace

std::optional<ReadSpeed> fio_read_speed(const std::string& path, uint64_t file_bytes, size_t chunk, int depth, double seconds, std::string& why_not) {
  static const bool here = output_of({"fio", "--version"}).has_value();
  if (!here) {
    why_not = "fio is not installed (Debian: fio)";
    return std::nullopt;
  }
  // fio takes its buffers in one piece, with pages to spare (fio 3.33: 16 MiB of buffers do not fit into 9)
  const uint64_t needed = div_up<uint64_t>(chunk * static_cast<uint64_t>(depth), 2_MiB) + 2;
  const uint64_t free_pages = std::strtoull(proc_value("/proc/meminfo", "HugePages_Free").c_str(), nullptr, 10);
  if (free_pages < needed) {
    why_not = fmt::format(
        "fio's buffers need {} huge pages, {} are free; `sysctl vm.nr_hugepages={}` as root reserves them, `sysctl vm.nr_hugepages=0` gives them "
        "back",
        needed, free_pages, needed);
    return std::nullopt;
  }
  std::string name;
  for (const char c : path) name += c == ':' ? "\\:" : std::string(1, c);  // fio splits lists of files there
  const auto text =
      output_of({"fio", "--name=read", "--filename=" + name, "--readonly", "--rw=read", "--ioengine=io_uring", "--direct=1", "--iomem=mmaphuge",
                 fmt::format("--bs={}", chunk), fmt::format("--iodepth={}", depth), fmt::format("--size={}", file_bytes / chunk * chunk),
                 "--time_based", fmt::format("--runtime={}ms", std::max(1L, std::lround(seconds * 1000))), "--output-format=json"});
  try {
    if (text) {
      const auto job = nlohmann::json::parse(text->substr(std::min(text->find('{'), text->size())))["jobs"][0];
      const double bytes = job["read"]["io_bytes"], ms = job["read"]["runtime"], busy = job["usr_cpu"].get<double>() + job["sys_cpu"].get<double>();
      if (bytes > 0 && ms > 0) return ReadSpeed{bytes / ms * 1e3, busy / 100 * ms * 1e-3 / (bytes * 1e-9)};
    }
  } catch (const nlohmann::json::exception&) {
  }
  why_not = "fio is here but could not read the file with io_uring into huge pages";
  return std::nullopt;
}

ReadSpeed engine_read_speed(IoEngine& engine, const IoFile& file, std::span<std::byte> memory, size_t chunk, double seconds) {
  const size_t n = memory.size() / chunk;
  const uint64_t chunks = file.size() / chunk;
  FG_CHECK(n >= 2 && chunks >= 1, "{} buffers of {} bytes for a file of {}", n, chunk, file.size());
  std::deque<IoTicket> tickets(n);
  uint64_t next = 0;
  const auto read = [&](size_t i) {
    const IoRequest r{IoRequest::Op::read, file.fd(), next++ % chunks * chunk, memory.data() + i * chunk, chunk, &tickets[i]};
    engine.submit({&r, 1});
  };
  const double cpu = cpu_seconds(), start = seconds_now();
  for (size_t i = 0; i < n; ++i) read(i);
  int error = 0;
  double now = start;
  for (size_t i = 0; error == 0 && now - start < seconds; i = (i + 1) % n) {
    error = tickets[i].wait();
    now = seconds_now();
    read(i);
  }
  engine.drain();
  const double took = seconds_now() - start;
  for (const IoTicket& t : tickets) error = error != 0 ? error : t.error();
  if (error == IoTicket::kEndOfFile) fail(Fault::damaged, "{}: became shorter while it was read", file.path());
  if (error != 0) fail(Fault::io, "{}: reading failed: {}", file.path(), std::strerror(error));
  const double bytes = static_cast<double>(next) * static_cast<double>(chunk);
  return {bytes / took, (cpu_seconds() - cpu) / (bytes * 1e-9)};
}

DiskRoof measure_disk_roof(const std::string& path, double seconds) {
  const IoFile file = IoFile::open(File::open(path));
  const size_t chunk = std::min<uint64_t>(kRoofChunk, file.size() / kIoAlign * kIoAlign);
  if (chunk == 0) fail(Fault::usage, "{}: found {} bytes, allowed {} or more to measure the disk with", path, file.size(), kIoAlign);
  std::string why_not;
  if (const auto fio = fio_read_speed(path, file.size(), chunk, kRoofDepth, seconds, why_not))
    return {fio->bytes_per_s, fmt::format("fio, io_uring, {} x {}, huge pages", format_bytes(chunk), kRoofDepth)};
  const Arena arena(read_buffers(kRoofDepth) * chunk);
  const auto engine =
      make_io_engine({.limits = {.bytes_in_flight = kRoofDepth * chunk, .piece_bytes = chunk, .depth = kRoofDepth}, .memory = arena.memory()});
  const ReadSpeed speed = engine_read_speed(*engine, file, arena.memory().first(read_buffers(kRoofDepth) * chunk), chunk, seconds);
  return {speed.bytes_per_s,
          fmt::format("our own {}, {} x {}{}: {}", engine->name(), format_bytes(chunk), kRoofDepth, file.direct() ? "" : ", page cache", why_not)};
}

}  // namespace flexgen::bench
