// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/io_file.h"

#include <sys/mount.h>

#include <filesystem>

#include "flexgen/io/make_io_engine.h"
#include "support/errors.h"
#include "support/io_files.h"

using namespace flexgen;

namespace {

// on a disk or in memory: what is read and written must be the same, which of them goes past the page cache may differ
void round_trip(const std::string& folder) {
  const std::string content = testing::random_bytes(3_MiB);
  const auto engine = make_io_engine({.engine = "threads"});
  testing::write_file(folder + "/model", content);
  const File file = File::open(folder + "/model");
  const IoFile model = IoFile::open(file);
  CHECK(model.size() == content.size());
  CHECK(model.fd() != file.fd());
  CHECK(testing::read_all(*engine, model.fd(), content.size()) == content);
  // the descriptor that it came from still reads whatever it likes
  std::string some(10, '\0');
  file.read(5, std::as_writable_bytes(std::span(some)));
  CHECK(some == content.substr(5, 10));
  std::filesystem::remove(folder + "/model");

  const SpillFile spill = SpillFile::create(folder, content.size());
  CHECK(spill.size() == content.size());
  testing::write_all(*engine, spill.fd(), content);
  CHECK(testing::read_all(*engine, spill.fd(), content.size()) == content);
  CHECK(std::filesystem::is_empty(folder));
}

}  // namespace

TEST_CASE("a model file is read and a spill file written and read, and no name is left", "[io]") {
  const testing::TempDir dir;
  round_trip(dir.path());
}

TEST_CASE("the same in memory", "[io]") {
  const std::filesystem::path shm = "/dev/shm";
  const std::string folder = shm / ("flexgen-test-" + std::to_string(::getpid()));
  std::error_code error;
  if (!std::filesystem::create_directory(folder, error)) {
    WARN("skipped: no folder in /dev/shm can be made");
    return;
  }
  round_trip(folder);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a spill file has its space from the start", "[io]") {
  const testing::TempDir dir;
  const SpillFile spill = SpillFile::create(dir.path(), 1_MiB + 1);
  CHECK(spill.size() == 1_MiB + 4096);
  struct stat st {};
  REQUIRE(::fstat(spill.fd(), &st) == 0);
  CHECK(static_cast<uint64_t>(st.st_size) == spill.size());
  CHECK(static_cast<uint64_t>(st.st_blocks) * 512 >= spill.size());
  CHECK(st.st_nlink == 0);
  CHECK(spill.name() == dir.path() + "/(flexgen's spill file)");
  CHECK((st.st_mode & 0777) == 0600);
}

TEST_CASE("a folder without room or without files is told", "[io]") {
  const testing::TempDir dir;
  CHECK_FAULT(SpillFile::create(dir.path(), uint64_t{1} << 61), Fault::space, ": the file for the cache needs 2048 PiB: found ");
  CHECK_FAULT(SpillFile::create(dir.path(), uint64_t{1} << 61), Fault::space, dir.path() + ": ");
  CHECK_FAULT(SpillFile::create(dir.path(), uint64_t{1} << 61), Fault::space,
              " free, allowed at least that. Choose another folder or a smaller cache on disk");
  CHECK_FAULT(SpillFile::create(dir / "none", 4096), Fault::io, "none: no file for the cache can be made in this folder: No such file or directory");
  CHECK_FAULT(SpillFile::create(dir.write("file", "x"), 4096), Fault::io, "file: no file for the cache can be made in this folder: Not a directory");
  CHECK_FAULT(SpillFile::create(dir.path(), 0), Fault::internal, "a file of 0 bytes");
}

TEST_CASE("a full disk is told with what is free on it", "[io]") {
  const testing::TempDir dir;
  if (::mount("none", dir.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    WARN("skipped: a small file system cannot be mounted here");
    return;
  }
  CHECK(SpillFile::create(dir.path(), 512_KiB).size() == 512_KiB);
  CHECK_FAULT(SpillFile::create(dir.path(), 3_MiB), Fault::space,
              ": the file for the cache needs 3.00 MiB: found 1.00 MiB free, allowed at least that");
  CHECK(::umount(dir.path().c_str()) == 0);
}

TEST_CASE("a model file that changes while in use is told", "[io]") {
  const testing::TempDir dir;
  const std::string path = dir.write("model", std::string(8192, 'a'));
  const File file = File::open(path);
  const IoFile model = IoFile::open(file);
  CHECK_NOTHROW(model.check_unchanged());
  dir.write("other", "x");
  std::filesystem::rename(dir / "other", path);  // another file under the name: the one that is open is as it was
  CHECK_NOTHROW(model.check_unchanged());

  const std::string second = dir.write("second", std::string(8192, 'a'));
  const File opened = File::open(second);
  const IoFile touched = IoFile::open(opened);
  const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  REQUIRE(::utimensat(AT_FDCWD, second.c_str(), times, 0) == 0);
  CHECK_FAULT(touched.check_unchanged(), Fault::damaged, "second: changed while in use: found another time of modification than when it was opened");
  REQUIRE(::truncate(second.c_str(), 4096) == 0);
  CHECK_FAULT(touched.check_unchanged(), Fault::damaged,
              "second: changed while in use: found 4,096 bytes, allowed 8,192 as when it was opened. Start again");
}

TEST_CASE("identities of two files differ", "[io]") {
  const testing::TempDir dir;
  const File a = File::open(dir.write("a", "1")), b = File::open(dir.write("b", "1"));
  CHECK(FileIdentity::of(a.fd(), "a") == FileIdentity::of(a.fd(), "a"));
  CHECK(FileIdentity::of(a.fd(), "a") != FileIdentity::of(b.fd(), "b"));
  CHECK_FAULT(FileIdentity::of(-1, "gone"), Fault::io, "gone: cannot be examined: Bad file descriptor");
}
