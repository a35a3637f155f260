// SPDX-License-Identifier: Apache-2.0
// A progress line on standard error: only on a terminal, only for work that takes more than two seconds, with rate and time left.
//   convert  [=========>            ]  43 %   5.6 GiB of 13.0 GiB   1.24 GiB/s   0:06 left
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>

#include "flexgen/base/bytes.h"

namespace flexgen::tools {

// What is counted
enum class ProgressUnit { bytes, tokens, answers };

// done of total after elapsed_s; the text of the line
inline std::string progress_line(const std::string& title, uint64_t done, uint64_t total, double elapsed_s, ProgressUnit unit = ProgressUnit::bytes) {
  const auto amount = [unit](uint64_t n) {
    return unit == ProgressUnit::bytes ? format_bytes(n) : with_commas(n) + (unit == ProgressUnit::tokens ? " tokens" : " answers");
  };
  constexpr size_t kBar = 24;
  const double share = total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double rate = elapsed_s > 0 ? static_cast<double>(done) / elapsed_s : 0;
  const auto filled = static_cast<size_t>(share * kBar);
  std::string bar(filled, '=');
  if (filled < kBar) bar += '>';
  std::string line = fmt::format("{}  [{:<{}}] {:3.0f} %   {} of {}   {}/s", title, bar, kBar, std::floor(share * 100), amount(done),
                                 amount(total), amount(static_cast<uint64_t>(rate)));
  if (rate > 0 && done < total) {
    const auto left = static_cast<uint64_t>(std::ceil(static_cast<double>(total - done) / rate));
    line += left >= 3600 ? fmt::format("   {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60)
                         : fmt::format("   {}:{:02} left", left / 60, left % 60);
  }
  return line;
}

// Watches a counter that the work advances, from its own thread, for as long as it lives.
class Progress {
 public:
  // done outlives this
  Progress(std::string title, const std::atomic<uint64_t>& done, uint64_t total, ProgressUnit unit = ProgressUnit::bytes)
      : title_(std::move(title)), done_(done), total_(total), unit_(unit) {
    if (::isatty(STDERR_FILENO) == 1) thread_ = std::thread([this] { watch(); });
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  static constexpr std::chrono::milliseconds kQuiet{2000}, kStep{200};

  void watch() {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    std::unique_lock lock(mutex_);
    bool shown = false;
    for (auto pause = kQuiet; !wake_.wait_for(lock, pause, [this] { return stop_; }); pause = kStep) {
      const double elapsed_s = std::chrono::duration<double>(Clock::now() - start).count();
      fmt::print(stderr, "\r{}\x1b[K", progress_line(title_, done_.load(std::memory_order_relaxed), total_, elapsed_s, unit_));
      std::fflush(stderr);
      shown = true;
    }
    if (shown) fmt::print(stderr, "\r\x1b[K");  // messages that follow start on a clean line
  }

  std::string title_;
  const std::atomic<uint64_t>& done_;
  uint64_t total_;
  ProgressUnit unit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace flexgen::tools
