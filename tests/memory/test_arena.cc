// SPDX-License-Identifier: Apache-2.0
#include "flexgen/memory/arena.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <sstream>

#include "support/catch.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;

static_assert(!std::is_copy_constructible_v<Arena> && std::is_nothrow_move_constructible_v<Arena> && std::is_nothrow_move_assignable_v<Arena>);

namespace {

// why huge pages cannot be expected here; empty where they can
std::string no_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string modes;
  std::getline(file, modes);
  if (modes.empty()) return "skipped: this system does not say whether it has transparent huge pages";
  return modes.find("[never]") == modes.npos ? "" : "skipped: transparent huge pages are off";
}

}  // namespace

TEST_CASE("pieces of an arena are aligned, apart, zero and writable to the last byte", "[memory]") {
  Arena arena(5_MiB);
  CHECK(arena.size() == 6_MiB);
  CHECK(reinterpret_cast<uintptr_t>(arena.memory().data()) % Arena::kHugePage == 0);
  CHECK(std::all_of(arena.memory().begin(), arena.memory().end(), [](std::byte b) { return b == std::byte{0}; }));
  const auto a = arena.take(1000), b = arena.take(4096, 64), c = arena.take(100, 1), d = arena.take(1_MiB, 2_MiB);
  CHECK(a.data() == arena.memory().data());
  CHECK(b.data() == a.data() + 1024);
  CHECK(c.data() == b.data() + 4096);
  CHECK(d.data() == a.data() + 2_MiB);
  CHECK(arena.left() == 3_MiB);
  const auto rest = arena.take(3_MiB, 1);
  CHECK(rest.data() == d.data() + 1_MiB);
  std::fill(arena.memory().begin(), arena.memory().end(), std::byte{0x5A});
  CHECK(rest.back() == std::byte{0x5A});
  CHECK(arena.take(0, 1).empty());
  CHECK_FAULT(arena.take(1, 1), Fault::internal, "1 bytes at 6291456 in an arena of 6291456");
  CHECK_FAULT(arena.take(std::numeric_limits<size_t>::max()), Fault::internal, "in an arena of 6291456");
  CHECK_FAULT(arena.take(1, 3), Fault::internal, "alignment 3");
  CHECK_FAULT(arena.take(1, 4_MiB), Fault::internal, "alignment 4194304");
}

TEST_CASE("an empty arena owns nothing; moving one moves its memory", "[memory]") {
  Arena none(0);
  CHECK(none.size() == 0);
  CHECK(none.memory().empty());
  CHECK_FALSE(none.huge_coverage().has_value());
  Arena a(2_MiB);
  const auto piece = a.take(4096);
  Arena b(std::move(a));
  CHECK(a.size() == 0);
  CHECK(b.memory().data() == piece.data());
  none = std::move(b);
  CHECK(none.left() == 2_MiB - 4096);
}

TEST_CASE("memory that no system has is refused", "[memory]") {
  CHECK_FAULT(Arena(size_t{1} << 60), Fault::space, "out of memory: 1024 PiB were asked for. Lower the memory budget");
  CHECK_FAULT(Arena(std::numeric_limits<size_t>::max()), Fault::space, "out of memory: 16384 PiB were asked for");
}

TEST_CASE("an arena lies in huge pages", "[memory]") {
  if (const std::string why = no_huge_pages(); !why.empty()) {
    WARN(why);
    return;
  }
  const Arena a(16_MiB), neighbour(4_MiB);
  REQUIRE(a.huge_coverage().has_value());
  CHECK(*a.huge_coverage() == 1.0);
  CHECK(*neighbour.huge_coverage() == 1.0);
}

TEST_CASE("the share of huge pages counts the mappings inside the range, and no others", "[memory]") {
  const std::string text =
      "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \nSize:               4096 kB\nAnonHugePages:      4096 kB\nShmemPmdMapped:        0 kB\n"
      "7f0000400000-7f0000800000 rw-p 00000000 00:00 0 \nAnonHugePages:      2048 kB\nTHPeligible:           1\n"
      "7f0000800000-7f0001000000 rw-p 00000000 00:00 0 \nAnonHugePages:         0 kB\n"
      "7f0001000000-7f0001400000 r--p 00000000 fe:00 12 /lib/a-b.so\nAnonHugePages:      4096 kB\n";
  const auto share = [&](uintptr_t begin, uintptr_t end) {
    std::istringstream in(text);
    return huge_page_share(in, begin, end);
  };
  CHECK(share(0x7f0000400000, 0x7f0000800000) == 0.5);
  CHECK(share(0x7f0000400000, 0x7f0001000000) == Approx(2.0 / 12));  // two mappings
  CHECK(share(0x7f0000800000, 0x7f0001000000) == 0.0);
  CHECK_FALSE(share(0x7f0000600000, 0x7f0000800000).has_value());  // merged with a neighbour: not known
  CHECK_FALSE(share(0x1000, 0x1000).has_value());
  std::istringstream empty;
  CHECK_FALSE(huge_page_share(empty, 0, 4096).has_value());
}

TEST_CASE("memory is pinned once it is there and unpinned before it goes", "[memory]") {
  struct Pinner : HostPinner {
    std::span<std::byte> pinned;
    bool refuses = false;
    void pin(std::span<std::byte> m) override {
      if (refuses) fail(Fault::space, "no more memory may be pinned");
      pinned = m;
    }
    void unpin(std::span<std::byte> m) noexcept override {
      if (m.data() == pinned.data() && m[0] == std::byte{7}) pinned = {};
    }
  } pinner;
  {
    Arena a(2_MiB, &pinner);
    CHECK(a.pinned());
    CHECK(pinner.pinned.size() == 2_MiB);
    a.memory()[0] = std::byte{7};
    const Arena b(std::move(a));
    CHECK_FALSE(a.pinned());
    CHECK(pinner.pinned.data() == b.memory().data());
  }
  CHECK(pinner.pinned.empty());
  pinner.refuses = true;
  CHECK_FAULT(Arena(2_MiB, &pinner), Fault::space, "no more memory may be pinned");
  CHECK_FALSE(Arena(2_MiB).pinned());
}

TEST_CASE("a cgroup full of page cache: 0.95 of an arena lies in huge pages all the same", "[memory]") {
  if (const std::string why = no_huge_pages(); !why.empty()) {
    WARN(why);
    return;
  }
#if FLEXGEN_SANITIZED
  WARN("skipped: the sanitizer's own memory does not fit into the group");
#else
  // v1, or v2 with the memory controller given to children
  const bool v1 = std::filesystem::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  const std::string group = (v1 ? "/sys/fs/cgroup/memory/flexgen-test-" : "/sys/fs/cgroup/flexgen-test-") + std::to_string(::getpid());
  const auto put = [&](const char* file, const std::string& value) {
    const int fd = ::open((group + file).c_str(), O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && ::write(fd, value.data(), value.size()) == static_cast<ssize_t>(value.size());
    if (fd >= 0) ::close(fd);
    return ok;
  };
  std::error_code ignored;
  constexpr size_t kLimit = 96_MiB, kArena = 72_MiB;
  if (!std::filesystem::create_directory(group, ignored) || !put(v1 ? "/memory.limit_in_bytes" : "/memory.max", std::to_string(kLimit))) {
    std::filesystem::remove(group, ignored);
    WARN("skipped: no cgroup with a memory limit can be made here");
    return;
  }
  const testing::TempDir dir;
  const std::string path = dir / "cache";
  const pid_t child = ::fork();
  if (child == 0) {
    if (!put("/cgroup.procs", std::to_string(::getpid()))) ::_exit(101);
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    static char block[1 << 20];
    for (size_t i = 0; i < kLimit; i += sizeof block)
      if (::write(fd, block, sizeof block) != sizeof block) ::_exit(102);
    ::fdatasync(fd);
    for (int pass = 0; pass < 2; ++pass)
      for (size_t i = 0; i < kLimit; i += sizeof block)
        if (::pread(fd, block, sizeof block, static_cast<off_t>(i)) != sizeof block) ::_exit(103);
    try {
      const Arena arena(kArena);
      ::_exit(static_cast<int>(arena.huge_coverage().value_or(0) * 100));
    } catch (...) {
      ::_exit(104);
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  for (int i = 0; i < 100 && !std::filesystem::remove(group, ignored); ++i) ::usleep(10'000);  // busy for a moment after its last process
  REQUIRE(WIFEXITED(status));
  INFO("per cent, or above 100 what went wrong");
  CHECK(WEXITSTATUS(status) >= 95);
  CHECK(WEXITSTATUS(status) <= 100);
#endif
}
