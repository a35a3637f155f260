// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/file.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;

namespace {

std::string text_of(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

std::string read(const File& file, uint64_t offset, size_t n) {
  std::vector<std::byte> out(n);
  file.read(offset, out);
  return text_of(out);
}

File writable(const std::string& path) { return File(Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)), path, 0); }

}  // namespace

TEST_CASE("reads are whole, at any offset", "[io]") {
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", "0123456789"));
  CHECK(file.size() == 10);
  CHECK(read(file, 0, 10) == "0123456789");
  CHECK(read(file, 7, 3) == "789");
  CHECK(read(file, 10, 0).empty());
  CHECK(read(file, 99, 0).empty());
}

TEST_CASE("the end of a file before the bytes that are needed is damage, with place and remedy", "[io]") {
  const testing::TempDir dir;
  const std::string path = dir.write("short", "0123456789");
  const File file = File::open(path);
  CHECK_FAULT(read(file, 8, 4), Fault::damaged, path + ": ends at byte 10, but 4 bytes at offset 8 are needed: truncated");
  CHECK_FAULT(read(file, 100, 1), Fault::damaged, "1 bytes at offset 100 are needed");

  std::filesystem::resize_file(path, 3);  // cut while it is open
  CHECK(read(file, 0, 3) == "012");
  CHECK_FAULT(read(file, 0, 10), Fault::damaged, "ends at byte 3, but 10 bytes at offset 0 are needed");
}

TEST_CASE("offsets beyond what the system can address are refused by it", "[io]") {
  const testing::TempDir dir;
  const File file = File::open(dir.write("f", "x"));
  CHECK_FAULT(read(file, std::numeric_limits<uint64_t>::max() - 5, 1), Fault::io, "reading 1 bytes at offset 18446744073709551610 failed");
}

TEST_CASE("only regular files are opened, and a FIFO does not hang", "[io]") {
  const testing::TempDir dir;
  CHECK_FAULT(File::open(dir / "absent"), Fault::io, "absent: cannot be opened: No such file or directory");
  CHECK_FAULT(File::open(dir.path()), Fault::checkpoint, "is a folder; a regular file is needed");
  CHECK_FAULT(File::open("/dev/null"), Fault::checkpoint, "is a device; a regular file is needed");
  CHECK_FAULT(File::open(dir.write("plain", "x") + "/below"), Fault::io, "Not a directory");

  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK_FAULT(File::open(dir / "fifo"), Fault::checkpoint, "is a FIFO; a regular file is needed");

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = dir / "socket";
  REQUIRE(name.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  CHECK_FAULT(File::open(name), Fault::io, "cannot be opened");
}

TEST_CASE("writes are whole and land at their offsets", "[io]") {
  const testing::TempDir dir;
  const File file = writable(dir / "out");
  file.write(4, std::as_bytes(std::span("abcd", 4)));
  file.write(0, std::as_bytes(std::span("0123", 4)));
  file.write(8, {});
  file.sync();
  sync_folder(dir.path());
  CHECK(read_text_file(dir / "out") == "0123abcd");
}

TEST_CASE("a full disk is told apart from other failures", "[io]") {
  const File full(Fd(::open("/dev/full", O_WRONLY | O_CLOEXEC)), "/dev/full", 0);
  CHECK_FAULT(full.write(0, std::as_bytes(std::span("x", 1))), Fault::space,
              "/dev/full: writing 1 bytes at offset 0 failed: No space left on device");

  const testing::TempDir dir;
  const File read_only = File::open(dir.write("f", "x"));
  CHECK_FAULT(read_only.write(0, std::as_bytes(std::span("x", 1))), Fault::io, "Bad file descriptor");
}

TEST_CASE("a limit on file sizes is a lack of space", "[io]") {
  const testing::TempDir dir;
  const File file = writable(dir / "out");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // as the program does
  rlimit limited = before;
  limited.rlim_cur = 4096;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limited) == 0);
  std::optional<Error> caught;
  try {
    file.write(0, std::vector<std::byte>(8192));  // the first 4096 are written, the rest is refused
  } catch (const Error& e) {
    caught = e;
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  REQUIRE(caught);
  CHECK(caught->fault() == Fault::space);
  CHECK_THAT(caught->what(), Catch::Contains("File too large"));
}

TEST_CASE("O_DIRECT reads the same bytes where the file system has it", "[io]") {
  const testing::TempDir dir;
  std::string content(3 * kIoAlign, 'a');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 % 251);
  File file = File::open(dir.write("f", content));
  if (!file.set_direct(true)) {
    WARN("skipped: no O_DIRECT in " << dir.path());
    return;
  }
  alignas(kIoAlign) std::byte page[kIoAlign];
  file.read(kIoAlign, page);
  CHECK(text_of(page) == content.substr(kIoAlign, kIoAlign));
  CHECK(file.set_direct(false));
  CHECK(read(file, 1, 10) == content.substr(1, 10));
}

TEST_CASE("small files are read whole, up to a limit", "[io]") {
  const testing::TempDir dir;
  CHECK(read_text_file(dir.write("empty", "")).empty());
  CHECK(read_text_file(dir.write("nul", std::string("a\0b", 3))) == std::string("a\0b", 3));
  CHECK(read_text_file(dir.write("four", "1234"), 4) == "1234");
  CHECK_FAULT(read_text_file(dir.write("five", "12345"), 4), Fault::checkpoint, "five: found 5 bytes, allowed 4");
}

TEST_CASE("folders: syncing one that is not there, free space", "[io]") {
  const testing::TempDir dir;
  CHECK_FAULT(sync_folder(dir / "absent"), Fault::io, "the folder could not be written to disk");
  CHECK(free_disk_bytes(dir.path()) > 0);
  CHECK(free_disk_bytes("") > 0);
  CHECK_FAULT(free_disk_bytes(dir / "absent"), Fault::io, "free space cannot be found out");
}
