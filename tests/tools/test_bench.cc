// SPDX-License-Identifier: Apache-2.0
// flexgen-bench from outside: its numbers exist and agree with each other. None is compared with a time.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "flexgen/io/file.h"
#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"
#include "support/temp_dir.h"

#if defined(FLEXGEN_BENCH_PROGRAM) && defined(NDEBUG)

using namespace flexgen;
using flexgen::testing::RunResult;
using flexgen::testing::TempDir;
using Json = nlohmann::json;

namespace {

RunResult bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), FLEXGEN_BENCH_PROGRAM);
  return testing::run(arguments);
}

}  // namespace

TEST_CASE("bench overlap: every scheme, with times that agree", "[tools]") {
  const TempDir dir;
  const RunResult r = bench({"overlap", "--size", "4MiB", "--dir", dir.path(), "--repeats", "1", "--ratios", "0.5,2", "--schemes", "sync,threads", "--json"});
  INFO(r.err);
  REQUIRE(r.exit == 0);
  CHECK(std::filesystem::is_empty(dir.path()));  // the scratch model is gone
  const Json j = Json::parse(r.out);
  CHECK(j.at("lines").size() == 8);
  const uint64_t bytes = j.at("bytes");
  CHECK(bytes >= 2u << 20);
  for (const Json& line : j.at("lines"))
    for (const Json& run : line.at("runs")) {
      const double total = run.at("total_s"), io = run.at("solo_io_s"), compute = run.at("solo_compute_s");
      CHECK(total > 0);
      CHECK(run.at("efficiency").get<double>() == Approx(std::max(io, compute) / total));
      CHECK(run.at("fill_s").get<double>() <= total);
      CHECK(run.at("stall_disk_s").get<double>() <= total * 1.001);
      CHECK(run.at("disk_busy_s").get<double>() > 0);
      CHECK(run.at("read_p50_ms").get<double>() <= run.at("read_max_ms").get<double>());
      CHECK(run.at("retries") == 0);
    }
  const RunResult table = bench({"overlap", "--size", "4MiB", "--dir", dir.path(), "--repeats", "1", "--ratios", "1", "--schemes", "threads", "--compute", "cores"});
  CHECK(table.exit == 0);
  CHECK_THAT(table.out, Catch::Contains("cores") && Catch::Contains("threads") && Catch::Contains("CPU s/GB"));
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& message) {
    const RunResult bad = bench(arguments);
    CHECK(bad.exit == 2);
    CHECK_THAT(bad.err, Catch::Contains(message));
  };
  refused({"overlap", "--schemes", "magic"}, "--schemes: found 'magic', allowed sync, ring, threads");
  refused({"overlap", "--compute", "gpu"}, "--compute: found 'gpu', allowed timed, cores");
  refused({"overlap", "--ratios", "0"}, "--ratios: found 0, allowed numbers above 0 to 100");
  refused({"overlap", "--verify", "maybe"}, "--verify: found 'maybe', allowed off, first, always");
  refused({"overlap", "--repeats", "0"}, "--repeats: found 0, allowed 1 to 1000");
}

#endif
