// SPDX-License-Identifier: Apache-2.0
// flexgen eval from outside: HF's perplexity, JSON fields, messages and exit codes.
#include <nlohmann/json.hpp>

#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace flexgen;
using flexgen::testing::fixture_model;
using flexgen::testing::run_flexgen;
using flexgen::testing::RunResult;
using flexgen::testing::TempDir;
using Json = nlohmann::json;

TEST_CASE("eval: perplexity as HF defines it", "[tools][golden]") {
  const auto text = testing::shared_data("text/eval-kjv.txt");
  if (!text || FLEXGEN_SANITIZED) return;
  const RunResult r = run_flexgen({"eval", "--model", fixture_model("tiny-opt"), "--text", *text, "--stride", "512", "--json"});
  INFO(r.err);
  REQUIRE(r.exit == 0);
  const Json j = Json::parse(r.out);
  CHECK(j.at("tokens") == 15821);  // golden/eval.json
  CHECK(j.at("perplexity").get<double>() == Approx(47.58898884225874).epsilon(1e-3));
  CHECK(j.at("nll").get<double>() == Approx(3.862600356970123).epsilon(1e-3));
  CHECK(j.at("max_length") == 512);
  CHECK(j.at("stride") == 512);
}

TEST_CASE("eval: defaults, table and options of the engine", "[tools]") {
  const TempDir dir;
  const std::string text = dir.write("t.txt", "In the beginning God created the heaven and the earth.\nAnd the earth was without form, and void.\n");
  const RunResult table = run_flexgen({"eval", "--model", fixture_model("tiny-opt"), "--text", text});
  INFO(table.err);
  CHECK(table.exit == 0);
  CHECK_THAT(table.out, Catch::Contains("perplexity  ") && Catch::Contains("nll         ") && Catch::Contains("tokens      "));
  const RunResult a = run_flexgen({"eval", "--model", fixture_model("tiny-opt"), "--text", text, "--max-length", "8", "--stride", "3", "--json"});
  const RunResult b = run_flexgen({"eval", "--model", fixture_model("tiny-opt"), "--text", text, "--max-length", "8", "--stride", "3", "--json",
                                   "--threads", "3", "--gpu-batch-size", "1", "--micro-batch-tokens", "5"});
  INFO(a.err << b.err);
  REQUIRE(a.exit == 0);
  REQUIRE(b.exit == 0);
  CHECK(Json::parse(a.out).at("tokens") == Json::parse(b.out).at("tokens"));
  CHECK(Json::parse(a.out).at("nll").get<double>() == Approx(Json::parse(b.out).at("nll").get<double>()).epsilon(1e-9));
}

TEST_CASE("eval: what is wrong is said", "[tools]") {
  const TempDir dir;
  const std::string text = dir.write("t.txt", "some words"), empty = dir.write("empty.txt", "");
  const std::string model = fixture_model("tiny-opt");
  const auto check = [](const RunResult& r, int exit, const std::string& message) {
    CHECK(r.exit == exit);
    CHECK_THAT(r.err, Catch::Contains(message));
    CHECK(r.out.empty());
  };
  check(run_flexgen({"eval", "--model", model}), 2, "--text is required");
  check(run_flexgen({"eval", "--model", model, "--text", dir / "none.txt"}), 4, "none.txt: cannot be opened");
  check(run_flexgen({"eval", "--model", model, "--text", empty}), 2, "the text has 1 tokens, at least 2 are needed");
  check(run_flexgen({"eval", "--model", model, "--text", text, "--max-length", "513"}), 2, "max-length: found 513, allowed 2 to the model's 512");
  check(run_flexgen({"eval", "--model", model, "--text", text, "--max-length", "8", "--stride", "9"}), 2,
        "stride: found 9, allowed 1 to max-length, which is 8");
  check(run_flexgen({"eval", "--model", text, "--text", text}), 3, "is not a flexgen model file");
}
