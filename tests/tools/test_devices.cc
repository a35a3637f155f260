// SPDX-License-Identifier: Apache-2.0
// Where to compute, from outside: the list of cards, and what --device does where there is none. CUDA_VISIBLE_DEVICES hides cards that
// the machine may have.
#include <algorithm>

#include "support/generate.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

const RunOptions kNoCards{.env = {{"CUDA_VISIBLE_DEVICES", ""}}};

}  // namespace

TEST_CASE("devices: the CPU is listed, and why there is no card", "[tools]") {
  const RunResult r = run_flexgen({"devices"}, kNoCards);
  INFO(r.out << r.err);
  CHECK(r.exit == 0);
  CHECK(r.out.starts_with("cpu "));
  CHECK_THAT(r.out, Catch::Contains("\nno card: "));
  CHECK(std::count(r.out.begin(), r.out.end(), '\n') == 2);
  const Json j = Json::parse(run_flexgen({"devices", "--json"}, kNoCards).out);
  CHECK(j.at("cpu").at("device") == "cpu");
  CHECK(j.at("cpu").at("threads").get<int>() >= 1);
  CHECK(j.at("cpu").at("isa").size() >= 2);
  CHECK(j.at("cards").empty());
  CHECK(j.at("no_cards_because").get<std::string>() != "");
}

TEST_CASE("generate: without a card --device cuda:0 says so in one line, and the CPU answers", "[tools]") {
  const Strings prompt{"--prompt", "HAMLET:", "--max-new-tokens", "4", "--json"};
  const RunResult cpu = generate(tiny(), prompt + Strings{"--device", "cpu"}, kNoCards),
                  card = generate(tiny(), prompt + Strings{"--device", "cuda:0", "--gpu-memory", "1GiB", "--cpu-cache-compute", "--deterministic"},
                                  kNoCards),
                  any = generate(tiny(), prompt + Strings{"--device", "auto"}, kNoCards);
  INFO(card.err);
  CHECK(card.exit == 0);
  CHECK(card.out == cpu.out);
  CHECK_THAT(card.err, Catch::StartsWith("--device cuda:0: ") && Catch::Contains("; the CPU computes\n"));
  CHECK(generate(tiny(), prompt + Strings{"--device", "auto", "--gemm", "own"}, kNoCards).out == cpu.out);
  const RunResult another = generate(tiny(), prompt + Strings{"--device", "cuda:7", "--gpu-memory", "1TiB"}, kNoCards);
  CHECK(another.exit == 0);
  CHECK(another.out == cpu.out);
  CHECK_THAT(another.err, Catch::StartsWith("--device cuda:7: ") && Catch::Contains("; the CPU computes\n"));
  CHECK(any.exit == 0);
  CHECK(any.out == cpu.out);
  CHECK(any.err.find("the CPU computes") == std::string::npos);
}

TEST_CASE("generate: a device that is no name, and budgets that are none, are refused", "[tools]") {
  const auto check = [](const Strings& options, const std::string& message) {
    const RunResult r = generate(tiny(), Strings{"--prompt", "x"} + options, kNoCards);
    CHECK(r.exit == 2);
    CHECK_THAT(r.err, Catch::Contains(message));
    CHECK(r.out.empty());
  };
  for (const char* name : {"gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda0", "cuda:99999999999", ""})
    check({"--device", name}, "--device: found '" + std::string(name) + "', allowed cpu, auto, or cuda:0, cuda:1, ... See flexgen devices");
  check({"--gpu-memory", "lots"}, "lots");
  check({"--gpu-memory", "-5"}, "--gpu-memory: found '-5', allowed a number with B, KiB, MiB, GiB, TiB");
  check({"--gpu-memory", "0"}, "--gpu-memory: found '0', allowed a size above 0, such as 12GiB");
  check({"--cpu-cache-compute", "maybe"}, "--cpu-cache-compute: found 'maybe', allowed on, off, true or false");
  check({"--gemm", "cublas"}, "--gemm: found 'cublas', allowed own or cublaslt");
  check({"--gemm", "cublaslt", "--deterministic"},
        "--gemm cublaslt: found with --deterministic, allowed without: its kernels keep no order of sums. Leave out one of the two");
  check({"--gemm", "cublaslt", "--device", "cpu"}, "--gemm cublaslt: found with --device cpu, allowed with a card. Leave out one of the two");
  for (const char* device : {"auto", "cuda:0"}) {
    check({"--gemm", "cublaslt", "--device", device}, "--gemm cublaslt: found no card (");
    check({"--gemm", "cublaslt", "--device", device}, "), allowed with one. Use --gemm own, or leave it out\n");
  }
}
