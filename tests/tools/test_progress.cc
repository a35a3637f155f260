// SPDX-License-Identifier: Apache-2.0
#include "tools/progress.h"

#include "support/catch.h"
#include "support/process.h"

using namespace flexgen;
using tools::progress_line;

TEST_CASE("the progress line says how much, how fast and how long", "[tools]") {
  CHECK(progress_line("convert", 0, 1_GiB, 2.0) == "convert  [>                       ]   0 %   0 B of 1.00 GiB   0 B/s");
  CHECK(progress_line("convert", 512_MiB, 1_GiB, 2.0) == "convert  [============>           ]  50 %   512 MiB of 1.00 GiB   256 MiB/s   0:02 left");
  CHECK(progress_line("convert", 1_GiB, 1_GiB, 4.0) == "convert  [========================] 100 %   1.00 GiB of 1.00 GiB   256 MiB/s");
  CHECK_THAT(progress_line("convert", 1_MiB, 8_GiB, 1.0), Catch::EndsWith("2:16:31 left"));
  CHECK_THAT(progress_line("convert", 0, 0, 1.0), Catch::Contains("100 %"));
  CHECK_THAT(progress_line("eval", 500, 2000, 5.0, tools::ProgressUnit::tokens),
             Catch::EndsWith("  25 %   500 tokens of 2,000 tokens   100 tokens/s   0:15 left"));
  CHECK_THAT(progress_line("generate", 1, 4, 2.0, tools::ProgressUnit::answers), Catch::Contains("1 answers of 4 answers"));
}

TEST_CASE("the process runner tells exit code, both outputs and signals apart", "[tools]") {
  using testing::run;
  const auto both = run({"sh", "-c", "cat; echo no >&2; exit 3"}, {.input = "in"});
  CHECK(both.exit == 3);
  CHECK(both.out == "in");
  CHECK(both.err == "no\n");
  CHECK(run({"sleep", "10"}, {.signal = SIGKILL, .signal_after_ms = 20}).exit == 128 + SIGKILL);
  CHECK(run({"this-program-does-not-exist"}).exit == 127);
  CHECK(run({"sh", "-c", "echo $X; pwd"}, {.env = {{"X", "y"}}, .folder = "/"}).out == "y\n/\n");
  const std::string big(1 << 20, 'x');
  CHECK(run({"cat"}, {.input = big}).out == big);
  CHECK_THROWS(run({"sleep", "10"}, {.timeout_ms = 50}));
}
