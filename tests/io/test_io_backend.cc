// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/io_backend.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("an I/O thread takes no signals, its starter takes them as before", "[io]") {
  sigset_t inside, before, after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  start_io_thread([&] { ::pthread_sigmask(SIG_SETMASK, nullptr, &inside); }).join();
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    CHECK(::sigismember(&inside, signal) == 1);
    CHECK(::sigismember(&after, signal) == ::sigismember(&before, signal));
  }
}
