// SPDX-License-Identifier: Apache-2.0
// Models over memory and disk, as users see it: where things lie, how they move and what disks do on bad days changes no token and no
// log-probability; what cannot be done says why, with its exit code, and leaves nothing behind.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "flexgen/base/bytes.h"
#include "flexgen/base/handle.h"
#include "flexgen/format/model_file.h"
#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace flexgen;
using flexgen::testing::fixture_model;
using flexgen::testing::RunOptions;
using flexgen::testing::RunResult;
using flexgen::testing::TempDir;
using Words = std::vector<std::string>;

namespace {

Words words(const std::string& text) {
  Words all;
  std::istringstream in(text);
  for (std::string w; in >> w;) all.push_back(w);
  return all;
}

const char* const kAllOnDisk = "--percent 0 0 0 0 0 0 --gpu-batch-size 1 --num-gpu-batches 3";

// Three prompts that fill pages of the cache, with tokens and log-probabilities as JSON. options: as on a command line
RunResult stream(const std::string& model, const std::string& options, const RunOptions& run = {}, int tokens = 6) {
  std::string numbers = "2";
  for (int i = 0; i < 70; ++i) numbers += "," + std::to_string(4 + i * 7 % 100);
  Words arguments{"generate", "--model", model};
  for (const std::string& prompt : {numbers, std::string("2,5,6"), numbers + ",9,8"}) arguments.insert(arguments.end(), {"--prompt-tokens", prompt});
  for (const std::string& w : words("--ignore-eos --json --logprobs 3 --max-new-tokens " + std::to_string(tokens) + " " + options))
    arguments.push_back(w);
  return testing::run_flexgen(arguments, run);
}

// The answers with everything in memory
const std::string& resident(const std::string& model) {
  static std::map<std::string, std::string> known;
  std::string& answers = known[model];
  if (answers.empty()) {
    const RunResult r = stream(model, "--percent 100 0 100 0 100 0");
    INFO(r.err);
    REQUIRE(r.exit == 0);
    answers = r.out;
  }
  return answers;
}

void check_same(const std::string& model, const std::string& options) {
  INFO(options);
  const RunResult r = stream(model, options);
  INFO(r.err);
  CHECK(r.exit == 0);
  CHECK(r.out == resident(model));
}

bool says(const RunResult& r, const std::string& text) { return r.err.find(text) != std::string::npos; }

const std::string& whole_tiny() { return fixture_model("tiny-opt"); }
const std::string& smallest() { return fixture_model("golden/prenorm-f16-bin"); }

// A memory cgroup of its own, version 1 or 2, where this process may make one
class MemoryGroup {
 public:
  MemoryGroup() {
    for (const char* root : {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"}) {
      const bool v1 = std::string_view(root).ends_with("memory");
      const std::string folder = std::string(root) + "/flexgen-test-" + std::to_string(::getpid());
      if (::mkdir(folder.c_str(), 0700) != 0) continue;
      folder_ = folder;
      limit_ = v1 ? "/memory.limit_in_bytes" : "/memory.max";
      peak_ = v1 ? "/memory.max_usage_in_bytes" : "/memory.peak";
      if (set(limit_, "1073741824") && std::ifstream(folder_ + peak_).good()) return;
      ::rmdir(folder_.c_str());
      folder_.clear();
    }
  }
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;
  ~MemoryGroup() {
    if (!folder_.empty()) ::rmdir(folder_.c_str());
  }

  bool usable() const { return !folder_.empty(); }
  bool limit(uint64_t bytes) const { return set(limit_, std::to_string(bytes)); }
  bool enter() const { return set("/cgroup.procs", "0"); }
  uint64_t peak() const {
    uint64_t bytes = 0;
    std::ifstream(folder_ + peak_) >> bytes;
    return bytes;
  }

 private:
  bool set(const std::string& file, const std::string& value) const {
    const Fd fd(::open((folder_ + file).c_str(), O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size());
  }
  std::string folder_, limit_, peak_;
};

// The size that follows, in MiB
double mib_after(const std::string& err, const std::string& what) {
  const size_t at = err.find(what);
  if (at == std::string::npos) return 0;
  std::istringstream in(err.substr(at + what.size()));
  double number = 0;
  std::string unit;
  in >> number >> unit;
  return unit == "MiB" ? number : unit == "GiB" ? number * 1024 : 0;
}

}  // namespace

TEST_CASE("no placement changes a token or a log-probability") {
  for (const std::string& model : {whole_tiny(), smallest()})
    for (const char* percent : {"0 50 100 0 100 0", "0 0 100 0 0 100", "0 100 0 0 100 0", "0 100 0 100 0 0", "20 20 10 30 0 40", "0 0 0 0 0 0"})
      check_same(model, std::string("--gpu-batch-size 1 --num-gpu-batches 3 --percent ") + percent);
}

TEST_CASE("a share of the activations on disk is met in whole micro-batches, where there is but one as well") {
  for (const char* percent : {"0 100 0 100 0 50", "0 100 0 100 0.5 99", "0 0 0 50 10 0"})
    for (const char* shape : {"--gpu-batch-size 4", "--gpu-batch-size 2", "--gpu-batch-size 1 --sep-layer off"})
      check_same(smallest(), std::string("--percent ") + percent + " " + shape);
}

TEST_CASE("no way of moving changes a token or a log-probability") {
  for (const char* options : {"--overlap off", "--overlap false --sep-layer off", "--sep-layer false", "--pin-weight on", "--pin-weight off",
                              "--pin-weight true", "--pin-weight false", "--verify always", "--verify off", "--io-engine threads", "--look-ahead 1",
                              "--look-ahead 1MiB", "--look-ahead 256MiB", "--micro-batch-tokens 16", "--threads 1"})
    check_same(smallest(), std::string(kAllOnDisk) + " " + options);
  check_same(whole_tiny(), std::string(kAllOnDisk) + " --io-engine threads --look-ahead 1 --verify always");
}

TEST_CASE("the shares that were asked for and what came of them stand beside each other") {
  const RunResult r = stream(whole_tiny(), "--percent 0 50 0 0 100 0 --gpu-batch-size 1 --num-gpu-batches 3");
  INFO(r.err);
  CHECK(r.exit == 0);
  CHECK(says(r, "in memory, asked and realised"));
  CHECK(says(r, "50 %"));
  CHECK(says(r, "in all"));
  CHECK(says(r, "huge pages: "));
}

TEST_CASE("where io_uring is forbidden, threads give the same answers, and it is said") {
  RunOptions run;
  run.before = [] {
    sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                             BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter{4, program};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) ::_exit(125);
  };
  const RunResult r = stream(smallest(), kAllOnDisk, run);
  if (r.exit == 125) {
    WARN("skipped: no seccomp filter may be installed here");
    return;
  }
  INFO(r.err);
  CHECK(r.exit == 0);
  CHECK(r.out == resident(smallest()));
  CHECK(says(r, "note: io_uring is forbidden here (EPERM); 4 threads read instead"));
  const RunResult forced = stream(smallest(), std::string(kAllOnDisk) + " --io-engine uring", run);
  INFO(forced.err);
  CHECK(forced.exit == 4);
  CHECK(says(forced, "io_uring is forbidden here (EPERM)"));
}

TEST_CASE("what does not fit is refused with the bytes that are missing") {
  const RunResult r = stream(whole_tiny(), "--memory 10MiB");
  INFO(r.err);
  CHECK(r.exit == 5);
  CHECK(r.out.empty());
  CHECK(says(r, "error[E-space]: "));
  CHECK(says(r, "allowed 10.0 MiB: "));
  CHECK(says(r, " are missing. Give more --memory"));
}

TEST_CASE("wrong values are refused with what was found and what is allowed") {
  struct Case {
    const char *options, *message;
  };
  const Case cases[] = {
      {"--percent 0 101 0 0 0 0", "--percent: weights: found 0 and 101, allowed two numbers from 0 to 100 whose sum is at most 100"},
      {"--percent 0 50 60 50 0 0", "--percent: KV cache: found 60 and 50, allowed"},
      {"--percent 0 50 50 50 -1 0", "--percent: activations: found -1 and 0, allowed"},
      {"--percent nan 0 0 0 0 0", "--percent: weights: found nan and 0, allowed"},
      {"--memory 0", "--memory: found '0', allowed a size above 0, such as 12GiB"},
      {"--look-ahead 0MiB", "--look-ahead: found '0MiB', allowed a size above 0"},
      {"--memory 6QiB", "--memory: found '6QiB', allowed a number with B, KiB"},
      {"--overlap maybe", "--overlap: found 'maybe', allowed on, off, true or false"},
      {"--sep-layer 2", "--sep-layer: found '2', allowed on, off, true or false"},
      {"--pin-weight offf", "--pin-weight: found 'offf', allowed on, off, true or false"},
      {"--verify never", "--verify: found 'never', allowed first, always or off"},
      {"--io-engine aio", "--io-engine: found 'aio', allowed auto, uring or threads"},
      {"--fault eio", "--fault: the measure in 'eio': found '', allowed =PROBABILITY, @N or @N+"},
      {"--fault explode=1", "--fault: the kind in 'explode=1': found 'explode', allowed short, eagain"},
  };
  for (const Case& c : cases) {
    const RunResult r = stream(smallest(), c.options);
    INFO(c.options << '\n' << r.err);
    CHECK(r.exit == 2);
    CHECK(says(r, c.message));
    CHECK(r.out.empty());
  }
}

TEST_CASE("short, refused and late transfers change no token") {
  for (const char* engine : {"auto", "threads"})
    for (const char* seed : {"1", "2"})
      check_same(whole_tiny(), std::string(kAllOnDisk) + " --io-engine " + engine + " --fault short=0.01,eagain=0.01,delay=0.001:50ms,seed=" + seed);
  check_same(smallest(), std::string(kAllOnDisk) + " --fault short=0.2,eagain=0.1,eintr=0.1,delay=0.05:2ms,reorder=4");
}

TEST_CASE("a disk that fails for ever ends the run with what was read or written, and nothing stays") {
  const TempDir spill;
  const std::string options = std::string(kAllOnDisk) + " --offload-dir " + spill.path() + " --fault ";
  for (const char* engine : {"auto", "threads"}) {
    const RunResult r = stream(whole_tiny(), options + "read:eio@3+ --io-engine " + engine);
    INFO(r.err);
    CHECK(r.exit == 4);
    CHECK(says(r, "error[E-io]: " + whole_tiny() + ": reading tensor '"));
    CHECK(says(r, " at offset "));
    CHECK(says(r, "Input/output error"));
  }
  const RunResult r = stream(whole_tiny(), options + "write:eio@1+");
  INFO(r.err);
  CHECK(r.exit == 4);
  CHECK(says(r, "error[E-io]: "));
  CHECK(says(r, "writing "));
  CHECK(says(r, " at offset "));
  const RunResult full = stream(whole_tiny(), options + "write:enospc@1+");
  INFO(full.err);
  CHECK(full.exit == 5);
  CHECK(says(full, "error[E-space]: "));
  CHECK(std::filesystem::is_empty(spill.path()));
}

// tests/engine/test_offload.cc tries every one
TEST_CASE("one I/O operation that fails changes nothing or ends the run cleanly; all from one on end it") {
  const TempDir spill;
  const std::string options = std::string(kAllOnDisk) + " --look-ahead 1 --offload-dir " + spill.path() + " --fault ";
  const RunResult good = stream(smallest(), options + "seed=1", {}, 2);
  INFO(good.err);
  REQUIRE(good.exit == 0);
  int failed = 0;
  for (const int n : {1, 2, 9, 30, 100, 400})
    for (const char* lasting : {"", "+"}) {
      const std::string fault = "eio@" + std::to_string(n) + lasting;
      const RunResult r = stream(smallest(), options + fault, {}, 2);
      INFO(fault << '\n' << r.err);
      if (r.exit == 0)
        CHECK(r.out == good.out);
      else
        CHECK((r.exit == 4 && says(r, "error[E-io]: ") && says(r, " at offset ")));
      if (*lasting) CHECK(r.exit == 4);
      failed += r.exit != 0;
    }
  CHECK(failed > 0);
  CHECK(std::filesystem::is_empty(spill.path()));
}

TEST_CASE("a bit that flipped in any block is found, and named") {
  const TempDir dir;
  const std::string path = dir / "flipped.flex";
  std::filesystem::copy_file(smallest(), path);
  const ModelFile good = ModelFile::open(smallest());
  REQUIRE(good.blocks().size() > 10);
  for (size_t i = 0; i < good.blocks().size(); i += FLEXGEN_SANITIZED ? 8 : 1) {
    const FileBlock& block = good.blocks()[i];
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(block.offset + i * 37 % block.bytes);
    file.seekg(at);
    const char was = static_cast<char>(file.get());
    const auto put = [&](int byte) { file.seekp(at).put(static_cast<char>(byte)).flush(); };
    put(was ^ (1 << i % 8));
    const std::string weights = i % 3 == 2 ? "0 100" : "0 0";
    const RunResult r = stream(path, "--verify always --gpu-batch-size 1 --num-gpu-batches 3 --percent " + weights + " 100 0 100 0");
    INFO("block " << i << '\n' << r.err);
    CHECK(r.exit == 7);
    CHECK(r.out.empty());
    CHECK(says(r, fmt::format("error[E-damaged]: {}: weights damaged: {}, block {}, bytes {} to {} of the file: found hash ", path,
                              good.block_owner(i), i, block.offset, block.offset + block.bytes - 1)));
    put(was);
  }
  CHECK(stream(path, std::string(kAllOnDisk) + " --verify always").out == resident(smallest()));
}

TEST_CASE("a bit that flips on its way is read again; one that flips on the disk of the cache is found") {
  check_same(smallest(), std::string(kAllOnDisk) + " --verify always --fault read:flip@5");
  const RunResult r = stream(smallest(), std::string(kAllOnDisk) + " --fault write:flip@1+");
  INFO(r.err);
  CHECK(r.exit == 7);
  CHECK(says(r, "error[E-damaged]: "));
}

TEST_CASE("Ctrl-C while weights stream and the cache spills: exit 130, and nothing stays") {
  const TempDir spill;
  RunOptions run;
  run.signal = SIGINT, run.signal_after_ms = FLEXGEN_SANITIZED ? 2500 : 600;
  const RunResult r = stream(whole_tiny(), std::string(kAllOnDisk) + " --fault delay=1:20ms --offload-dir " + spill.path(), run, 50);
  INFO(r.err);
  CHECK(r.exit == 130);
  CHECK(r.err.ends_with("interrupted\n"));
  CHECK(std::filesystem::is_empty(spill.path()));
}

TEST_CASE("an offload folder that is not there is named, and nothing is computed") {
  const RunResult r = stream(smallest(), std::string(kAllOnDisk) + " --offload-dir /no/such/folder");
  INFO(r.err);
  CHECK(r.exit != 0);
  CHECK(r.out.empty());
  CHECK(says(r, "/no/such/folder"));
}

TEST_CASE("a model larger than the limit of its cgroup runs within the plan that is printed, page cache included") {
  if (FLEXGEN_SANITIZED) return;  // their shadow memory is in no plan
  const MemoryGroup group;
  if (!group.usable()) {
    WARN("skipped: this process may not make a memory cgroup");
    return;
  }
  const TempDir dir;
  const std::string model = dir / "synth.flex";
  REQUIRE(testing::run_flexgen({"synth", "--like", "opt-350m", "--layers", "12", "-o", model}).exit == 0);
  constexpr uint64_t kLimit = 192_MiB;
  REQUIRE(std::filesystem::file_size(model) > kLimit + kLimit / 4);
  REQUIRE(group.limit(kLimit));
  RunOptions run;
  run.before = [&] {
    if (!group.enter()) ::_exit(125);
  };
  const RunResult r = stream(model, "--memory " + std::to_string(kLimit), run);
  INFO(r.err);
  CHECK(r.exit == 0);
  CHECK(r.out == resident(model));
  CHECK(says(r, "budget 192 MiB"));
  const double planned = mib_after(r.err, "  in all ");
  CHECK(planned > 0);
  CHECK(planned <= 192);
  CHECK(static_cast<double>(group.peak()) <= planned * 1_MiB);

  const RunResult alone = stream(model, "", run);
  INFO(alone.err);
  CHECK(alone.exit == 0);
  CHECK(alone.out == r.out);
  CHECK(says(alone, "huge pages: "));
  CHECK(mib_after(alone.err, "   budget ") > 150);
  CHECK(mib_after(alone.err, "   budget ") <= 192);

  const RunResult more = stream(model, "--memory 1GiB", run);
  INFO(more.err);
  CHECK(more.exit == 0);
  CHECK(more.out == r.out);
  CHECK(says(more, ", no more of the 1.00 GiB asked for is free"));
  const RunResult placed = stream(model, "--memory 1GiB --percent 0 100 0 100 0 100", run);
  INFO(placed.err);
  CHECK(placed.exit == 5);
  CHECK(says(placed, " (no more of the 1.00 GiB asked for is free): "));
  CHECK(says(placed, " are missing. Give more memory to the machine or its cgroup"));
}
