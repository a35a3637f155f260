// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/fault_spec.h"

#include "support/errors.h"

using namespace flexgen;
using Kind = FaultRule::Kind;

TEST_CASE("a list of faults is understood", "[io]") {
  CHECK(parse_fault_spec("").rules.empty());
  const FaultSpec s = parse_fault_spec(
      "short=0.01,eagain=1,read:eio@7,write:eintr@2+,enospc=0.5,delay=0.001:50ms,write:delay@3+:1.5s,flip@1,misdirect=0,seed=9,reorder=4");
  CHECK(s.seed == 9);
  CHECK(s.reorder == 4);
  REQUIRE(s.rules.size() == 9);
  CHECK(s.rules[0].kind == Kind::short_transfer);
  CHECK(s.rules[0].probability == 0.01);
  CHECK((s.rules[0].reads && s.rules[0].writes));
  CHECK(s.rules[0].nth == 0);
  CHECK(s.rules[1].probability == 1);
  CHECK(s.rules[2].kind == Kind::eio);
  CHECK(s.rules[2].nth == 7);
  CHECK_FALSE(s.rules[2].lasting);
  CHECK((s.rules[2].reads && !s.rules[2].writes));
  CHECK(s.rules[3].nth == 2);
  CHECK(s.rules[3].lasting);
  CHECK((!s.rules[3].reads && s.rules[3].writes));
  CHECK((!s.rules[4].reads && s.rules[4].writes));  // no read meets a full disk
  CHECK(s.rules[5].delay == std::chrono::milliseconds(50));
  CHECK(s.rules[5].probability == 0.001);
  CHECK(s.rules[6].delay == std::chrono::milliseconds(1500));
  CHECK(s.rules[6].lasting);
  CHECK(s.rules[7].kind == Kind::flip);
  CHECK((s.rules[8].reads && !s.rules[8].writes));
  CHECK(parse_fault_spec("eio@1").seed == 1);
  CHECK(parse_fault_spec("delay=1:250us").rules[0].delay == std::chrono::microseconds(250));
}

TEST_CASE("what is wrong with a list of faults is said", "[io]") {
  const auto bad = [](std::string_view text, const std::string& message) { CHECK_FAULT(parse_fault_spec(text), Fault::usage, message); };
  bad("eoi=1", "--fault: the kind in 'eoi=1': found 'eoi', allowed short, eagain, eintr, eio");
  bad("short=0.1,,", "the kind in '': found ''");
  bad("eio", "the measure in 'eio': found '', allowed =PROBABILITY, @N or @N+");
  bad("eio=2", "the probability in 'eio=2': found '2', allowed 0 to 1");
  bad("eio=nan", "the probability in 'eio=nan'");
  bad("eio=-0.5", "found '-0.5'");
  bad("eio=0.5x", "found '0.5x'");
  bad("eio=", "found '', allowed 0 to 1");
  bad("eio@0", "the number in 'eio@0': found '0', allowed 1 or more, with + for all after it");
  bad("eio@", "found '', allowed 1 or more");
  bad("eio@-1", "found '-1'");
  bad("eio@3++", "found '3++'");
  bad("read:enospc=1", "the direction in 'read:enospc=1': found 'read:', allowed write: alone");
  bad("write:misdirect=1", "found 'write:', allowed read: alone");
  bad("delay=0.1", "the time in 'delay=0.1': found '', allowed a number with us, ms or s, at most an hour, as in delay=0.001:50ms");
  bad("delay=0.1:50", "found '50'");
  bad("delay=0.1:-1s", "found '-1s'");
  bad("delay=0.1:3601s", "found '3601s'");
  bad("delay=0.1:s", "found 's'");
  bad("seed=x", "--fault: the number in 'seed=x': found 'x', allowed 0 or more");
  bad("reorder=", "the number in 'reorder='");
  bad("e\x1bio=1", "found 'e\\x1bio'");
}
