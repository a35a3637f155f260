// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/make_io_engine.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "support/errors.h"
#include "support/io_files.h"

using namespace flexgen;

namespace {

// From here on this process gets that error from a system call. false: filters are not allowed either. Unused under tsan
[[maybe_unused]] bool forbid(long call, int error) {
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{4, program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// What fn says in a child process: empty for all well
template <typename Fn>
std::string in_child(Fn&& fn) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string said;
    try {
      said = fn();
    } catch (const std::exception& e) {
      said = e.what();
    }
    const bool ok = ::write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
    ::_exit(ok ? 0 : 1);
  }
  ::close(ends[1]);
  std::string said(4096, '\0');
  size_t n = 0;
  for (ssize_t got = 0; (got = ::read(ends[0], said.data() + n, said.size() - n)) > 0;) n += static_cast<size_t>(got);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return "the child ended with status " + std::to_string(status);
  return said.substr(0, n);
}

}  // namespace

TEST_CASE("every engine brings the same bytes, with and without faults", "[io]") {
  const auto* const name = GENERATE("auto", "threads");
  const auto* const faults = GENERATE("", "short=0.01,eagain=0.01,delay=0.02:3ms", "short=0.2,eintr=0.1,eagain=0.1,reorder=4,seed=5");
#if defined(__SANITIZE_THREAD__)
  if (name == std::string("auto")) return;
#endif
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(16_MiB + 4096);
  const Fd fd = testing::open_direct(dir / "f", O_RDWR | O_CREAT);
  const auto engine = make_io_engine({.engine = name, .faults = parse_fault_spec(faults)});
  testing::write_all(*engine, fd.get(), content);
  CHECK(testing::read_all(*engine, fd.get(), content.size()) == content);
  CHECK(engine->statistics().bytes_read == content.size());
  CHECK(engine->statistics().errors == 0);
  if (name == std::string("threads")) CHECK(engine->name() == "threads");
  if (engine->name() == "threads" && name == std::string("auto")) WARN(engine->note());
}

TEST_CASE("an engine of another name is refused", "[io]") {
  CHECK_FAULT(make_io_engine({.engine = "aio"}), Fault::usage, "the I/O engine: found 'aio', allowed auto, uring or threads");
}

#if !defined(__SANITIZE_THREAD__)

TEST_CASE("where io_uring is forbidden, threads read the same bytes and the cause is said", "[io]") {
  const auto [call, error, cause] = GENERATE(std::tuple{SYS_io_uring_setup, EPERM, "io_uring is forbidden here (EPERM); 4 threads read instead"},
                                             std::tuple{SYS_io_uring_setup, ENOSYS, "io_uring is missing here (ENOSYS); 4 threads read instead"},
                                             std::tuple{SYS_io_uring_setup, ENOMEM, "io_uring does not work here (ENOMEM); 4 threads read instead"},
                                             std::tuple{SYS_io_uring_enter, EPERM, "io_uring is forbidden here (EPERM); 4 threads read instead"});
  CAPTURE(cause);
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(4_MiB);
  const std::string path = dir.write("f", content);
  const long forbidden = call;
  const int with = error;
  const std::string expected = cause;
  const std::string said = in_child([&]() -> std::string {
    if (!forbid(forbidden, with)) return "no filter";
    const Fd fd = testing::open_direct(path, O_RDONLY);
    const auto engine = make_io_engine();
    if (engine->name() != "threads") return "the engine is " + std::string(engine->name());
    if (engine->note() != expected) return engine->note();
    if (testing::read_all(*engine, fd.get(), content.size()) != content) return "other bytes";
    try {
      make_io_engine({.engine = "uring"});
    } catch (const Error& e) {
      return e.fault() == Fault::io && std::string(e.what()).starts_with(expected.substr(0, expected.find(';'))) ? "" : e.what();
    }
    return "uring was made all the same";
  });
  if (said == "no filter") WARN("skipped: no seccomp filter may be installed here");
  else CHECK(said == "");
}

TEST_CASE("an engine with requests in flight ends after them, faults or not", "[io]") {
  const auto* const name = GENERATE("auto", "threads");
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(8_MiB);
  const Fd fd = testing::open_direct(dir.write("f", content), O_RDONLY);
  const Buffer buffer(content.size());
  std::deque<IoTicket> tickets(128);
  {
    const auto engine = make_io_engine({.engine = name, .faults = parse_fault_spec("delay=0.1:5ms,eagain=0.05,short=0.1,reorder=3")});
    std::vector<IoRequest> requests;
    for (size_t i = 0; i < tickets.size(); ++i)
      requests.push_back({IoRequest::Op::read, fd.get(), i * 65536, buffer.data() + i * 65536, 65536, &tickets[i]});
    engine->submit(requests);
  }
  for (const IoTicket& t : tickets) CHECK((t.done() && t.error() == 0));
  CHECK(std::memcmp(buffer.data(), content.data(), content.size()) == 0);
}

#endif
