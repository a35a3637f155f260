// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/io_engine.h"

#include <thread>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("a ticket is done until it is started, and again when it is finished", "[io]") {
  IoTicket ticket;
  CHECK(ticket.done());
  CHECK(ticket.error() == 0);
  ticket.start();
  CHECK_FALSE(ticket.done());
  std::thread other([&] { ticket.finish(5); });
  CHECK(ticket.wait() == 5);
  other.join();
  CHECK(ticket.done());
  CHECK(ticket.error() == 5);
  ticket.start();
  ticket.finish(IoTicket::kEndOfFile);
  CHECK(ticket.wait() == IoTicket::kEndOfFile);
}
