// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/thread_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("every task runs exactly once, by a worker in range", "[base]") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      CAPTURE(threads, tasks);
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<bool> in_range{true};
      pool.parallel_for(tasks, [&](int64_t task, int worker) {
        runs[static_cast<size_t>(task)].fetch_add(1);
        if (worker < 0 || worker >= threads) in_range = false;
      });
      CHECK(in_range);
      bool once = true;
      for (const auto& n : runs) once &= n.load() == 1;
      CHECK(once);
    }
  }
}

TEST_CASE("tasks of one worker do not overlap, so that it can own scratch memory", "[base]") {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<bool> overlapped{false};
  for (int round = 0; round < 50; ++round)
    pool.parallel_for(64, [&](int64_t, int worker) {
      if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) overlapped = true;
      std::this_thread::yield();
      busy[static_cast<size_t>(worker)].fetch_sub(1);
    });
  CHECK_FALSE(overlapped);
}

// plain memory, no atomics: the thread sanitizer sees a missing happens-before between loops, and between a loop and its caller
TEST_CASE("each loop sees what the one before wrote", "[base]") {
  ThreadPool pool(3);
  std::vector<int64_t> a(257, 1), b(257, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.parallel_for(257, [&](int64_t i, int) { b[static_cast<size_t>(i)] = a[static_cast<size_t>(256 - i)] + 1; });
    pool.parallel_for(257, [&](int64_t i, int) { a[static_cast<size_t>(i)] = b[static_cast<size_t>(256 - i)]; });
  }
  CHECK(std::accumulate(a.begin(), a.end(), int64_t{0}) == 257 * 2001);
}

TEST_CASE("the first exception of a task reaches the caller, and the pool goes on", "[base]") {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 100; ++round) {
      CHECK_FAULT(pool.parallel_for(32, [&](int64_t i, int) { if (i % 8 == 3) fail(Fault::io, "task {}", i); }), Fault::io, "task ");
      std::atomic<int64_t> sum{0};
      pool.parallel_for(32, [&](int64_t i, int) { sum += i; });
      CHECK(sum == 31 * 32 / 2);
    }
  }
}

TEST_CASE("pools come and go, used or not", "[base]") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool unused(4);
    ThreadPool used(2);
    int64_t n = 0;
    used.parallel_for(1, [&](int64_t, int) { ++n; });
    CHECK(n == 1);
  }
}

TEST_CASE("a pool without threads is a broken precondition", "[base]") {
  CHECK_FAULT(ThreadPool(0), Fault::internal, "0 threads asked for");
  CHECK_FAULT(ThreadPool(-3), Fault::internal, "-3 threads asked for");
}

TEST_CASE("more threads than the system gives are an error, not the end of the process", "[base]") {
  if (FLEXGEN_SANITIZED) {
    WARN("skipped: a sanitizer needs more address space than this test leaves");
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{256 << 20, 256 << 20};  // each thread maps a stack of megabytes
    ::setrlimit(RLIMIT_AS, &limit);
    int rc = 1;
    try {
      ThreadPool pool(5000);
    } catch (const Error& e) {
      rc = e.fault() == Fault::space && std::string(e.what()).find("the system gave no more") != std::string::npos ? 0 : 2;
    } catch (...) {
      rc = 3;
    }
    ::_exit(rc);
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
