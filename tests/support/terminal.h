// SPDX-License-Identifier: Apache-2.0
// A program on a terminal of its own: what a user types goes in, what the screen shows comes out.
#pragma once

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flexgen::testing {

class Terminal {
 public:
  Terminal(const std::vector<std::string>& argv, const std::vector<std::pair<std::string, std::string>>& env) {
    winsize size{};
    size.ws_row = 40;
    size.ws_col = 200;
    child_ = ::forkpty(&fd_, nullptr, nullptr, &size);
    if (child_ < 0) throw std::runtime_error("forkpty failed");
    if (child_ == 0) {
      ::signal(SIGPIPE, SIG_DFL);
      for (const auto& [name, value] : env) ::setenv(name.c_str(), value.c_str(), 1);
      std::vector<char*> arguments;
      for (const std::string& a : argv) arguments.push_back(const_cast<char*>(a.c_str()));
      arguments.push_back(nullptr);
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (child_ > 0) ::kill(child_, SIGKILL), ::waitpid(child_, nullptr, 0);
    ::close(fd_);
  }

  void type(std::string_view keys) {
    while (!keys.empty()) {
      const ssize_t n = ::write(fd_, keys.data(), keys.size());
      if (n < 0 && errno != EINTR) throw std::runtime_error("the terminal takes no keys");
      if (n > 0) keys.remove_prefix(static_cast<size_t>(n));
    }
  }

  // Waits until text is shown after all that earlier calls waited for; returns what was shown up to its end. Throws after a minute.
  std::string wait_for(std::string_view text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (;;) {
      const size_t at = shown_.find(text);
      if (at != shown_.npos) {
        std::string part = shown_.substr(0, at + text.size());
        shown_.erase(0, at + text.size());
        return part;
      }
      if (std::chrono::steady_clock::now() > end || !read()) throw std::runtime_error("not shown: " + std::string(text) + "; shown: " + shown_);
    }
  }

  void send_signal(int number) { ::kill(child_, number); }

  // Waits for the end of the program; its exit code, or 128 + signal number
  int wait_exit() {
    while (read()) {}
    int status = 0;
    while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {}
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  // false when the program has closed the terminal, or said nothing for a minute
  bool read() {
    pollfd ready{fd_, POLLIN, 0};
    if (::poll(&ready, 1, 60'000) <= 0) return false;
    std::array<char, 4096> chunk;
    const ssize_t n = ::read(fd_, chunk.data(), chunk.size());
    if (n <= 0) return false;
    shown_.append(chunk.data(), static_cast<size_t>(n));
    return true;
  }

  int fd_ = -1;
  pid_t child_ = -1;
  std::string shown_;
};

}  // namespace flexgen::testing
