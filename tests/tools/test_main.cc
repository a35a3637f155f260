// SPDX-License-Identifier: Apache-2.0
// The program itself: help, version, commands that are not there, values that are empty.
#include <fcntl.h>
#include <unistd.h>

#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"

using flexgen::testing::fixture_model;
using flexgen::testing::run_flexgen;
using flexgen::testing::RunResult;

TEST_CASE("help names every command and the exit codes, once", "[tools]") {
  const RunResult all = run_flexgen({"--help"});
  CHECK(all.exit == 0);
  for (const char* command : {"convert", "inspect", "synth", "tokenize", "generate", "chat", "eval", "cache", "trace"}) {
    CHECK_THAT(all.out, Catch::Contains(std::string("\n  ") + command + " "));
    const RunResult one = run_flexgen({command, "--help"});
    CHECK(one.exit == 0);
    CHECK(one.err.empty());
    const size_t first = one.out.find("Exit codes:");
    REQUIRE(first != std::string::npos);
    CHECK(one.out.find("Exit codes:", first + 1) == std::string::npos);
  }
  CHECK_THAT(run_flexgen({"--version"}).out, Catch::StartsWith("flexgen "));
}

TEST_CASE("what is not a command or option is a usage error", "[tools]") {
  for (const std::vector<std::string>& words : {std::vector<std::string>{}, {"fly"}, {"generate"}, {"inspect", "x", "--wings"}, {"--wings"}}) {
    const RunResult r = run_flexgen(words);
    CHECK(r.exit == 2);
    CHECK(r.out.empty());
    CHECK_THAT(r.err, Catch::StartsWith("error[E-usage]: ") && Catch::Contains("--help"));
  }
}

TEST_CASE("an option may have an empty value", "[tools]") {
  const std::string model = fixture_model("golden/prenorm-f16-bin");
  const RunResult separate = run_flexgen({"generate", "--model", model, "--prompt", "", "--max-new-tokens", "3", "--json"});
  const RunResult joined = run_flexgen({"generate", "--model=" + model, "--prompt=", "--max-new-tokens=3", "--json"});
  INFO(joined.err);
  CHECK(joined.exit == 0);
  CHECK(joined.out == separate.out);
  CHECK_THAT(joined.out, Catch::Contains("\"prompt\":\"\""));
}

TEST_CASE("output that cannot be written is an error, unless its reader has enough", "[tools]") {
  flexgen::testing::RunOptions full;
  full.before = [] { ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO); };
  const RunResult r = run_flexgen({"inspect", fixture_model("golden/prenorm-f16-bin")}, full);
  CHECK(r.exit == 5);
  CHECK_THAT(r.err, Catch::StartsWith("error[E-space]: standard output: cannot be written"));
  flexgen::testing::RunOptions closed;
  closed.before = [] {
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(125);
    ::dup2(ends[1], STDOUT_FILENO);
    ::close(ends[0]);
  };
  const RunResult quiet = run_flexgen({"inspect", fixture_model("golden/prenorm-f16-bin")}, closed);
  CHECK(quiet.exit == 0);
  CHECK(quiet.err.empty());
}
