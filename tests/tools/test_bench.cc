// SPDX-License-Identifier: Apache-2.0
// flexgen-bench from outside: its numbers exist and agree with each other. None is compared with a time.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

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

RunResult bench(std::vector<std::string> arguments, const testing::RunOptions& options = {}) {
  arguments.insert(arguments.begin(), FLEXGEN_BENCH_PROGRAM);
  return testing::run(arguments, options);
}

}  // namespace

TEST_CASE("bench overlap: every scheme, with times that agree", "[tools]") {
  const TempDir dir;
  const RunResult r =
      bench({"overlap", "--size", "4MiB", "--dir", dir.path(), "--repeats", "1", "--ratios", "0.5,2", "--schemes", "sync,threads", "--json"});
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
      CHECK(run.at("first_layer_s").get<double>() >= run.at("fill_s").get<double>());
      CHECK(run.at("layer_p50_ms").get<double>() <= run.at("layer_p99_ms").get<double>());
      CHECK(run.at("layer_max_ms").get<double>() <= total * 1e3);
      CHECK(run.at("predicted_s").get<double>() == Approx(std::max(io, compute)));
      CHECK(run.at("sustained_of_solo").get<double>() > 0);
      CHECK(run.at("context_switches").get<double>() >= 0);
      const Json& slots = run.at("slots");
      double sum = 0;
      for (const char* state : {"free", "filling", "ready", "in_use"}) {
        CHECK(slots.at(state).get<double>() > -0.02);
        CHECK(slots.at(state).get<double>() < 1);
        sum += slots.at(state).get<double>();
      }
      CHECK(sum == Approx(1));
      CHECK(run.at("retries") == 0);
    }
  CHECK(j.at("fallbacks").is_array());
  CHECK(j.at("pinned_bytes") == 0);  // no GPU asks for it
  CHECK(j.at("numa").at("nodes") >= 1);
  CHECK(j.at("numa").contains("match"));
  const RunResult table =
      bench({"overlap", "--size", "4MiB", "--dir", dir.path(), "--repeats", "1", "--ratios", "1", "--schemes", "threads", "--compute", "cores"});
  CHECK(table.exit == 0);
  CHECK_THAT(table.out, Catch::Contains("cores") && Catch::Contains("threads") && Catch::Contains("CPU s/GB") && Catch::Contains("in use") &&
                             Catch::Contains("switches/GB") && Catch::Contains("NUMA nodes: "));
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& message) {
    const RunResult bad = bench(arguments);
    CHECK(bad.exit == 2);
    CHECK_THAT(bad.err, Catch::Contains(message));
  };
  refused({"overlap", "--schemes", "magic"}, "--schemes: found 'magic', allowed sync, ring, threads");
  refused({"overlap", "--compute", "gpu"}, "--compute: found 'gpu', allowed timed, cores");
  refused({"overlap", "--ratios", "0"}, "--ratios: found 0, allowed numbers from 0.01 to 100");
  refused({"overlap", "--ratios", "1,1e-300"}, "--ratios: found 1e-300, allowed numbers from 0.01 to 100");
  refused({"overlap", "--verify", "maybe"}, "--verify: found 'maybe', allowed off, first, always");
  refused({"overlap", "--repeats", "0"}, "--repeats: found 0, allowed 1 to 1000");
  refused({"overlap", "--threads", "0"}, "--threads: found 0, allowed a whole number from 1 to 1024");
}

TEST_CASE("bench end-to-end: times, bytes, placement and roofs that agree", "[tools]") {
  const std::string model = testing::fixture_model("golden/prenorm-f16-bin");
  const auto run = [&](std::vector<std::string> more) {
    std::vector<std::string> all{"end-to-end", "--model", model, "--roof-seconds", "0.05", "--json"};
    all.insert(all.end(), more.begin(), more.end());
    const RunResult r = bench(all);
    INFO(r.err);
    REQUIRE(r.exit == 0);
    return Json::parse(r.out);
  };
  const Json j = run({"--prompts", "5", "--prompt-len", "7", "--gen-len", "4", "--gpu-batch-size", "2",   "--num-gpu-batches", "2",  "--percent",
                      "0",         "0", "100",          "0", "100",       "0", "--kv-dtype",       "f32", "--overlap",         "off"});
  for (const char* time : {"prefill_s", "decode_s", "decode_tokens_per_s", "total_tokens_per_s", "peak_rss_bytes", "cpu_s", "roof_disk_s_per_sweep",
                           "roof_compute_s_per_sweep", "share_of_roof"})
    CHECK(j.at(time).get<double>() > 0);
  CHECK(j.at("sweeps") == 2 * (1 + 3));  // blocks of 4 and 1
  CHECK(j.at("decode_sweep_s").size() == 6);
  CHECK(j.at("overlap") == false);
  CHECK((j.at("gemm") == "own" && j.at("deterministic") == false));
  CHECK(j.at("kv_dtype") == "f32");
  CHECK(j.at("decode_tokens_per_s").get<double>() == Approx(5 * 3 / j.at("decode_s").get<double>()));
  CHECK(j.at("total_tokens_per_s").get<double>() == Approx(5 * 4 / (j.at("decode_s").get<double>() + j.at("prefill_s").get<double>())));
  // every sweep reads what is not in memory, the head's matrix too
  CHECK(j.at("bytes_read").get<uint64_t>() >= 7 * j.at("streamed_bytes_per_sweep").get<uint64_t>());
  CHECK(j.at("flow").at("bytes").at("weights").at("disk").get<uint64_t>() >= j.at("bytes_read").get<uint64_t>());
  const Json& placement = j.at("placement");
  CHECK(placement.at("asked").at("weights").at("disk") == 1);
  CHECK(placement.at("realised").at("weights").at("disk").get<double>() > 0.8);
  CHECK(placement.at("realised").at("kv_cache").at("memory") == 1);
  CHECK(j.at("roofs").at("disk_bytes_per_s").get<double>() > 0);
  CHECK(!j.at("roofs").at("disk_how").get<std::string>().empty());

  const Json decode = run({"--prompts", "2", "--gen-len", "10", "--sweeps", "3", "--synthetic-context", "9"});
  CHECK(decode.at("prefill_s") == 0);
  CHECK(decode.at("sweeps") == 3);
  CHECK(decode.at("bytes_read") == 0);  // everything fits
  CHECK(decode.at("placement").at("asked").is_null());
  CHECK(decode.at("placement").at("realised").at("weights").at("memory") == 1);

  const TempDir dir;
  const RunResult table =
      bench({"end-to-end", "--model", model, "--prompt-len", "4", "--gen-len", "2", "--roof-seconds", "0.05", "--trace", dir / "t.json"});
  CHECK(table.exit == 0);
  CHECK_THAT(table.out, Catch::Contains("memory plan") && Catch::Contains("prefill") && Catch::Contains("decode") && Catch::Contains("of the roof"));
  CHECK(testing::run_flexgen({"trace", dir / "t.json"}).exit == 0);
  const auto refused = [&](const std::vector<std::string>& arguments, int exit, const std::string& message) {
    const RunResult bad = bench(arguments);
    CHECK(bad.exit == exit);
    CHECK_THAT(bad.err, Catch::Contains(message));
  };
  refused({"end-to-end", "--model", model, "--prompts", "0"}, 2, "--prompts: found 0, allowed a whole number from 1 to 1048576");
  refused({"end-to-end", "--model", model, "--roof-seconds", "-1"}, 2, "--roof-seconds: found -1, allowed 0.01 to 3600");
  refused({"io", "--size", "0"}, 2, "--size: found '0', allowed a size above 0");
  refused({"io", "--seconds", "nan"}, 2, "--seconds: found nan, allowed 0.01 to 3600");
  refused({"end-to-end", "--model", model, "--prompt-len", "100000"}, 2, "positions are needed, allowed the model's");
  refused({"end-to-end", "--model", dir / "none"}, 4, "none: cannot be opened");
}

TEST_CASE("bench has the program's exit codes, and what nobody could read is not done", "[tools]") {
  for (const std::vector<std::string>& words : {std::vector<std::string>{}, {"fly"}, {"end-to-end"}, {"io", "--depths", "many"}, {"--wings"}}) {
    const RunResult r = bench(words);
    CHECK(r.exit == 2);
    CHECK_THAT(r.err, Catch::StartsWith("error[E-usage]: ") && Catch::Contains("flexgen-bench COMMAND --help"));
  }
  CHECK_THAT(bench({"--version"}).out, Catch::StartsWith("flexgen-bench "));
  for (const char* command : {"io", "overlap", "end-to-end"}) CHECK_THAT(bench({command, "--help"}).out, Catch::Contains("Exit codes:"));
  testing::RunOptions full;
  full.before = [] { ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO); };
  const std::string model = testing::fixture_model("golden/prenorm-f16-bin");
  const RunResult r = bench({"end-to-end", "--model", model, "--prompt-len", "4", "--gen-len", "2", "--roof-seconds", "0.05", "--json"}, full);
  CHECK(r.exit == 5);
  CHECK_THAT(r.err, Catch::StartsWith("error[E-space]: standard output: cannot be written"));
}

TEST_CASE("bench overlap that is interrupted leaves no model behind", "[tools]") {
  for (const int after_ms : {5, 30, 400}) {
    const TempDir dir;
    testing::RunOptions run;
    run.signal = SIGINT, run.signal_after_ms = after_ms;
    const RunResult r = bench({"overlap", "--size", "64MiB", "--dir", dir.path(), "--repeats", "200"}, run);
    INFO(after_ms << ' ' << r.err);
    CHECK(r.exit == 130);
    CHECK(std::filesystem::is_empty(dir.path()));
  }
}

#endif
