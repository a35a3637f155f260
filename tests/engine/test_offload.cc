// SPDX-License-Identifier: Apache-2.0
// A small run with everything on disk, in which every I/O operation in turn fails: once, or with all after it.
#include "flexgen/engine/offload.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "support/errors.h"
#include "support/fake_io_engine.h"
#include "support/streamed_model.h"

using namespace flexgen;
using testing::FakeIoEngine;
using testing::OwnWeights;
using testing::small_shape;
using testing::StreamedModel;
using testing::TempDir;

namespace {

using Tokens = std::vector<std::vector<int32_t>>;

constexpr uint64_t kStep = FLEXGEN_SANITIZED ? 7 : 1;  // of the operations that are tried
constexpr int64_t kNewTokens = 3, kLongest = 35;       // positions

// Four, each a micro-batch: more than hidden states have frames. The first one's page of the cache is full with the prompt and read
// again, the second one's in the last sweep and never read.
Tokens prompts() {
  Tokens all{{}, {}, {2, 5, 6}, {9}};
  for (int32_t i = 0; i < kLongest - kNewTokens + 1; ++i) all[0].push_back(4 + i * 7 % 90);
  for (int32_t i = 0; i < 30; ++i) all[1].push_back(4 + i * 11 % 90);
  return all;
}

void submit(Engine& engine) {
  for (const std::vector<int32_t>& prompt : prompts()) {
    Request r;
    r.prompt = prompt;
    r.settings.max_new_tokens = kNewTokens;
    r.settings.ignore_eos = true;
    engine.submit(std::move(r));
  }
}

void finish(Engine& engine, Tokens& tokens) {
  tokens.resize(prompts().size());
  while (!engine.idle())
    for (const Event& e : engine.step())
      if (e.kind == Event::Kind::token) tokens[e.request - 1].push_back(e.token);
}

// What came of a run on the real engine with faults made below it
struct Outcome {
  Tokens tokens;
  std::optional<Fault> fault;
  std::string message;
  uint64_t reads = 0, writes = 0;  // where there was no fault
  bool struck = true;              // some attempt at one failed
};

class SmallRun {
 public:
  // shares in memory, of weights and of the rest; faults: as --fault takes them
  Outcome operator()(double weights, double rest, const std::string& faults) {
    Policy policy;
    policy.shares = Policy::Shares{{0, weights}, {0, rest}, {0, rest}};
    policy.gpu_batch_size = 1;
    policy.look_ahead_bytes = 1;
    policy.verify = Verify::always;
    const Demand demand{.sequences = 4, .tokens_per_sequence = kLongest, .total_tokens = 4 * kLongest, .sweep_tokens = 4 * kLongest,
                        .least_sweep_tokens = 4, .logits = 4};
    Outcome o;
    try {
      Offload offload(model_, policy, make_memory_plan(model_.file(), model_.description(), policy, demand, process_memory()), pool_,
                      {.io_engine = "threads", .faults = parse_fault_spec(faults), .spill_folder = spill_.path()});
      Engine engine(model_.description(), offload.weights(), nullptr, *backends().front(), pool_, offload.engine_options());
      submit(engine);
      finish(engine, o.tokens);
      offload.check_disk();
      const IoStatistics io = offload.io().statistics();
      o.reads = io.reads, o.writes = io.writes;
      o.struck = io.retries > 0;
    } catch (const Error& e) {
      o.fault = e.fault();
      o.message = e.what();
    }
    CHECK(std::filesystem::is_empty(spill_.path()));
    return o;
  }

 private:
  StreamedModel file_{small_shape()};
  LanguageModel model_{file_.path()};
  TempDir spill_ = TempDir::in_memory();
  ThreadPool pool_{1};
};

}  // namespace

TEST_CASE("whichever attempt at reading or writing fails, once or for ever: the same tokens, or the disk is blamed", "[engine]") {
  SmallRun run;
  const Tokens want = run(1, 1, "").tokens;
  const Outcome good = run(0, 0, "");
  REQUIRE(good.message == "");
  REQUIRE(good.tokens == want);
  REQUIRE(good.reads > 100);
  REQUIRE(good.writes > 50);
  for (const std::string kind : {"eio", "write:enospc"})
    for (const bool lasting : {false, true}) {
      // a few operations more or less are needed from run to run: a hidden state whose frame is given up is read again
      int beyond = 0;
      for (uint64_t n = 1; beyond < 3; n += kStep) {
        const std::string faults = fmt::format("{}@{}{}", kind, n, lasting ? "+" : "");
        CAPTURE(faults);
        REQUIRE(n <= good.reads + good.writes + 100);
        const Outcome o = run(0, 0, faults);
        INFO(o.message);
        if (!o.struck) {  // there was no n-th one
          CHECK((kind == "eio" ? o.reads : 0) + o.writes < n);
          ++beyond;
        } else {
          beyond = 0;
        }
        if (!o.struck || (kind == "eio" && !lasting)) {  // that is tried again
          CHECK(o.message == "");
          CHECK(o.tokens == want);
          continue;
        }
        const bool at_end = o.message.find("reads or writes that nothing waited for failed in the end. The answers are complete") != o.message.npos;
        if (at_end) CHECK(o.tokens == want);
        CHECK(o.fault == (kind == "eio" || at_end ? Fault::io : Fault::space));
        CHECK((at_end || o.message.find(kind == "eio" ? "Input/output error" : "No space left on device") != o.message.npos));
      }
    }
}

TEST_CASE("a disk that fails where nothing waits for it is told at the end", "[engine]") {
  SmallRun run;
  const Outcome good = run(0, 1, "");
  REQUIRE(good.writes == 0);
  const Outcome o = run(0, 1, fmt::format("eio@{}+", good.reads));  // weights that were read ahead for a sweep that never came
  CHECK(o.tokens == good.tokens);
  CHECK(o.fault == Fault::io);
  CHECK_THAT(o.message, Catch::Contains(": 1 reads or writes that nothing waited for failed in the end. The answers are complete; check the disk"));
}

TEST_CASE("whichever request fails, once or for ever: what the run had done is whole, and it can go on", "[engine]") {
  const StreamedModel model(small_shape());
  const WeightPlacement none = WeightPlacement::of_share(model.file(), model.program(), 0);
  const KvLayout layout{DType::f16, model.model().n_kv_heads, model.model().head_dim, kAttentionBlock};
  const KvDemand demand{model.model().n_layers, layout, 4, kLongest, 1, kLongest, 0, true};
  const KvRequirement r = kv_requirement(demand);
  const Fd cache = testing::spill_file(r.disk_bytes()), hidden = testing::spill_file(1_MiB);
  ThreadPool pool(1);
  struct Result {
    Tokens tokens;
    int faults = 0;
    int64_t requests = 0;
  };
  const auto run = [&](uint32_t seed, testing::FakeFaults faults) {
    FakeIoEngine io(seed, std::move(faults));
    Result result;
    for (;;) try {
        OwnWeights weights(model, none, 8, kLongest, io, pool, {.verify = Verify::always});
        EngineOptions o;
        o.gpu_batch_size = 1;
        o.kv = KvOptions::planned(demand, r);
        o.kv->io = &io;
        o.kv->spill_fd = cache.get();
        o.kv->spill_name = "/spill/cache";
        o.sweep.hidden = {.memory_share = 0, .io = &io, .fd = hidden.get(), .path = "/spill/hidden"};
        Engine engine(model.model(), *weights.weights, nullptr, *backends().front(), pool, o);
        submit(engine);
        while (!engine.idle()) try {
            finish(engine, result.tokens);
          } catch (const Error& e) {
            ++result.faults;
            CHECK(e.fault() == Fault::io);
            CHECK_THAT(e.what(), Catch::Contains("Input/output error") && Catch::Contains(" at offset "));
            io.set_faults({});
          }
        io.drain();
        result.requests = io.submitted();
        return result;
      } catch (const Error& e) {  // while the vectors were read
        ++result.faults;
        CHECK(e.fault() == Fault::io);
        io.set_faults({});
      }
  };
  const Result good = run(1, {});
  REQUIRE(good.faults == 0);
  REQUIRE(good.requests > 150);
  for (const bool lasting : {false, true}) {
    int64_t faults = 0;
    for (int64_t n = 0; n < good.requests; n += kStep) {
      CAPTURE(lasting, n);
      const Result o = run(static_cast<uint32_t>(n), {.fail_from = n, .fail_until = lasting ? INT64_MAX : n + 1});
      CHECK(o.tokens == good.tokens);
      faults += o.faults;
    }
    CHECK(faults > good.requests / static_cast<int64_t>(2 * kStep));  // not each: what was read ahead or written last may never be needed
  }
}
