// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/output_file.h"

#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

#include "flexgen/memory/buffer.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;
namespace fs = std::filesystem;

namespace {

size_t files_in(const std::string& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void fill_and_commit(OutputFile& f, char value) {
  const Buffer page(4096);
  std::fill_n(page.as<char>(), 4096, value);
  f.file().write(4096, page.bytes());
  f.commit();
}

}  // namespace

TEST_CASE("a file appears whole, or not at all", "[format]") {
  const testing::TempDir dir;
  const std::string path = dir / "out.flex";
  {
    OutputFile f(path, 12288, false);
    CHECK_FALSE(fs::exists(path));
    CHECK(fs::exists(dir / ".out.flex.partial"));
    fill_and_commit(f, 'a');
  }
  CHECK(read_text_file(path) == std::string(4096, '\0') + std::string(4096, 'a') + std::string(4096, '\0'));
  CHECK(files_in(dir.path()) == 1);
  { const OutputFile given_up(dir / "other.flex", 4096, false); }
  CHECK(files_in(dir.path()) == 1);
  OutputFile again(path, 8192, true);
  fill_and_commit(again, 'b');
  CHECK(fs::file_size(path) == 8192);
}

TEST_CASE("what is there is not replaced unless that is asked for", "[format]") {
  const testing::TempDir dir;
  const std::string path = dir.write("out.flex", "precious");
  CHECK_FAULT(OutputFile(path, 4096, false), Fault::usage, "out.flex: exists already. Use --overwrite to replace it, or another name with -o");
  // it appears while we write
  OutputFile late(dir / "late.flex", 8192, false);
  dir.write("late.flex", "somebody else's");
  CHECK_FAULT(late.commit(), Fault::usage, "late.flex: exists already");
  CHECK(read_text_file(dir / "late.flex") == "somebody else's");
  CHECK_FAULT(OutputFile(dir.path(), 4096, true), Fault::usage, "is a folder; the output is one file");
  CHECK_FAULT(OutputFile(dir / "", 4096, true), Fault::usage, "is not a file name to write to");
  CHECK_FAULT(OutputFile(dir / "no/out.flex", 4096, true), Fault::io, "no/.out.flex.partial: cannot be written: No such file or directory");
  // a link of our temporary name is not followed
  dir.write("target", "t");
  fs::create_symlink(dir / "target", dir / ".trap.partial");
  CHECK_FAULT(OutputFile(dir / "trap", 4096, false), Fault::io, ".trap.partial: cannot be written");
  CHECK(read_text_file(dir / "target") == "t");
}

TEST_CASE("two writers of one name: the second is told", "[format]") {
  const testing::TempDir dir;
  OutputFile first(dir / "out.flex", 8192, false);
  CHECK_FAULT(OutputFile(dir / "out.flex", 8192, true), Fault::locked,
              "out.flex: is being written by another process, which holds " + (dir / ".out.flex.partial") + ". Wait for it");
  CHECK(fs::exists(dir / ".out.flex.partial"));  // the second has not touched it
  fill_and_commit(first, 'x');
  CHECK(files_in(dir.path()) == 1);
}

TEST_CASE("what a dead writer left is taken over", "[format]") {
  const testing::TempDir dir;
  dir.write(".out.flex.partial", std::string(100'000, 'z'));
  OutputFile f(dir / "out.flex", 8192, false);
  fill_and_commit(f, 'a');
  CHECK(read_text_file(dir / "out.flex") == std::string(4096, '\0') + std::string(4096, 'a'));
  CHECK(files_in(dir.path()) == 1);
}

TEST_CASE("too little space is said before anything is written", "[format]") {
  const testing::TempDir dir;
  CHECK_FAULT(OutputFile(dir / "out.flex", uint64_t{1} << 60, false), Fault::space,
              " bytes of free disk space, 1,152,921,504,606,846,976 are needed. Free some, or write to another disk with -o");
  CHECK(files_in(dir.path()) == 0);

  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit low{65536, old.rlim_max};
  auto* handler = ::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
  std::string message;
  try {
    const OutputFile f(dir / "out.flex", 1 << 20, false);
  } catch (const Error& e) {
    message = fmt::format("{} {}", exit_code(e.fault()), e.what());
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  CHECK_THAT(message, Catch::StartsWith("5 ") && Catch::Contains("1,048,576 bytes are more than a file may have here. Raise the limit (ulimit -f)"));
  CHECK(files_in(dir.path()) == 0);
}
