// SPDX-License-Identifier: Apache-2.0
// Runs a program as a user does: arguments and standard input in, exit code, standard output and standard error out. Nothing goes
// through a shell. A program can be sent a signal after a while, for the tests of interruption and of kill -9.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace flexgen::testing {

struct RunOptions {
  std::string input;                                       // standard input
  std::vector<std::pair<std::string, std::string>> env;    // set on top of the caller's environment
  std::string folder;                                      // where it runs; empty: here
  int signal = 0;                                          // sent after signal_after_ms, unless it ended before
  int signal_after_ms = 0;
  int timeout_ms = 120'000;                                // then it is killed and run() throws
  std::function<void()> before;                            // called in the new process, before it becomes the program; it may _exit
};

struct RunResult {
  int exit = 0;  // exit code, or 128 + signal number where a signal ended it
  std::string out, err;
};

namespace detail {

struct Pipe {
  std::array<int, 2> fd{-1, -1};
  Pipe() {
    if (::pipe2(fd.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe failed");
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() { close(0), close(1); }
  void close(size_t end) {
    if (fd[end] >= 0) ::close(std::exchange(fd[end], -1));
  }
};

[[noreturn]] inline void become(const std::vector<std::string>& argv, const RunOptions& options, const Pipe& in, const Pipe& out, const Pipe& err) {
  ::dup2(in.fd[0], 0), ::dup2(out.fd[1], 1), ::dup2(err.fd[1], 2);
  ::signal(SIGPIPE, SIG_DFL);
  for (const auto& [name, value] : options.env) ::setenv(name.c_str(), value.c_str(), 1);
  if (!options.folder.empty() && ::chdir(options.folder.c_str()) != 0) ::_exit(126);
  std::vector<char*> arguments;
  for (const std::string& a : argv) arguments.push_back(const_cast<char*>(a.c_str()));
  arguments.push_back(nullptr);
  if (options.before) options.before();
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

// moves what is ready from the pipe to text; closes the pipe at its end
inline void drain(Pipe& pipe, std::string& text) {
  std::array<char, 65536> chunk;
  const ssize_t n = ::read(pipe.fd[0], chunk.data(), chunk.size());
  if (n > 0) text.append(chunk.data(), static_cast<size_t>(n));
  else if (n == 0 || errno != EINTR) pipe.close(0);
}

}  // namespace detail

// argv[0] is looked up in PATH where it has no slash. Throws where the program cannot be started or exceeds its time.
inline RunResult run(const std::vector<std::string>& argv, const RunOptions& options = {}) {
  using Clock = std::chrono::steady_clock;
  detail::Pipe in, out, err;
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) detail::become(argv, options, in, out, err);
  in.close(0), out.close(1), err.close(1);
  ::signal(SIGPIPE, SIG_IGN);
  ::fcntl(in.fd[1], F_SETFL, O_NONBLOCK);

  RunResult result;
  size_t written = 0;
  const auto start = Clock::now();
  int to_send = options.signal;
  bool timed_out = false;
  while (out.fd[0] >= 0 || err.fd[0] >= 0) {
    if (written == options.input.size()) in.close(1);
    const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
    if (to_send != 0 && elapsed >= options.signal_after_ms) ::kill(child, std::exchange(to_send, 0));
    if (!timed_out && elapsed > options.timeout_ms) timed_out = true, ::kill(child, SIGKILL);
    const int wait_ms = to_send != 0 ? static_cast<int>(options.signal_after_ms - elapsed) : 100;
    std::array<pollfd, 3> fds{pollfd{out.fd[0], POLLIN, 0}, pollfd{err.fd[0], POLLIN, 0}, pollfd{in.fd[1], POLLOUT, 0}};
    if (::poll(fds.data(), fds.size(), wait_ms < 0 ? 0 : wait_ms) < 0 && errno != EINTR) throw std::runtime_error("poll failed");
    if (fds[0].revents) detail::drain(out, result.out);
    if (fds[1].revents) detail::drain(err, result.err);
    if (fds[2].revents) {
      const ssize_t n = ::write(in.fd[1], options.input.data() + written, options.input.size() - written);
      if (n > 0) written += static_cast<size_t>(n);
      else if (n < 0 && errno != EAGAIN && errno != EINTR) written = options.input.size();  // it stopped reading
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (timed_out) throw std::runtime_error(argv[0] + " did not end in time; it wrote: " + result.out + result.err);
  result.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

// run() of our own program
inline RunResult run_flexgen(std::vector<std::string> arguments, const RunOptions& options = {}) {
  arguments.insert(arguments.begin(), FLEXGEN_PROGRAM);
  return run(arguments, options);
}

}  // namespace flexgen::testing
