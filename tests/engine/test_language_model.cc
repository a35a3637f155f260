// SPDX-License-Identifier: Apache-2.0
// A model file from conversion to tokens: what is loaded from it gives HF's answers, as what lies in the checkpoint does.
#include "flexgen/engine/language_model.h"

#include <atomic>

#include "flexgen/engine/offload.h"
#include "flexgen/format/tokenizer_files.h"
#include "flexgen/model/conversion.h"
#include "kernels/registry.h"
#include "support/errors.h"
#include "support/golden.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::Golden;
using testing::TempDir;

namespace {

std::string convert(const std::string& folder, const TempDir& dir, std::optional<DType> dtype = std::nullopt) {
  const std::string path = dir / "model.flex";
  Conversion(folder, read_tokenizer_files(folder), dtype, "test").write(path, {.file_id = 1, .overwrite = true});
  return path;
}

// under a policy, with f32 in the cache; gpu-batch-size x num-gpu-batches sequences at a time
std::vector<std::vector<int32_t>> greedy(const LanguageModel& m, ThreadPool& pool, const std::vector<testing::GoldenSequence>& sequences,
                                         Policy policy = {}, OffloadOptions options = {}) {
  policy.kv_dtype = DType::f32;
  Demand demand{.sequences = policy.gpu_batch_size * policy.num_gpu_batches};
  for (const auto& s : sequences) {
    demand.tokens_per_sequence = std::max<int64_t>(demand.tokens_per_sequence, static_cast<int64_t>(s.prompt_tokens.size() + s.tokens.size()) - 1);
    demand.sweep_tokens += static_cast<int64_t>(s.prompt_tokens.size());
  }
  demand.total_tokens = demand.sequences * demand.tokens_per_sequence;
  demand.least_sweep_tokens = demand.logits = demand.sequences;
  Offload offload(m, policy, make_memory_plan(m.file(), m.description(), policy, demand, process_memory()), pool, std::move(options));
  Engine engine(m.description(), offload.weights(), m.tokenizer(), *backends().front(), pool, offload.engine_options());
  for (const auto& s : sequences) {
    Request r;
    r.prompt = s.prompt_tokens;
    r.settings.max_new_tokens = static_cast<int64_t>(s.tokens.size());
    r.settings.ignore_eos = true;
    engine.submit(r);
  }
  std::vector<std::vector<int32_t>> out(sequences.size());
  while (!engine.idle())
    for (const Event& e : engine.step())
      if (e.kind == Event::Kind::token) out[e.request - 1].push_back(e.token);
  return out;
}

}  // namespace

TEST_CASE("converted models give HF's greedy tokens, and HF's ids for the prompts", "[engine][golden]") {
  for (const std::string& folder : testing::golden_folders()) {
    const Golden g(folder);
    CAPTURE(g.name);
    const TempDir dir;
    LanguageModel m(convert(folder, dir));
    CHECK(m.default_kv_dtype() == (m.weight_dtype() == DType::f32 ? DType::f32 : DType::f16));
    ThreadPool pool(2);
    REQUIRE(m.tokenizer());
    for (const auto& s : g.sequences) CHECK(m.tokenizer()->encode(s.prompt) == s.prompt_tokens);
    const auto got = greedy(m, pool, g.sequences);
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == g.sequences[i].tokens);
  }
}

TEST_CASE("tokens are the same wherever weights, cache and activations lie", "[engine][golden]") {
  for (const char* name : {"golden/prenorm-f16-bin", "golden/postnorm-proj-f16", "golden/head128-bf16-sharded"}) {
    if (FLEXGEN_SANITIZED && std::string(name) != "golden/postnorm-proj-f16") continue;  // minutes with, and the same code
    const Golden g(testing::test_data(name));
    CAPTURE(g.name);
    const TempDir dir;
    const LanguageModel m(convert(testing::test_data(name), dir));
    ThreadPool pool(2);
    Policy policy;
    policy.gpu_batch_size = 2;
    policy.num_gpu_batches = 2;
    policy.micro_batch_tokens = 24;
    const auto check = [&](const Policy& p, OffloadOptions options = {}) {
      const auto got = greedy(m, pool, g.sequences, p, std::move(options));
      for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == g.sequences[i].tokens);
    };
    using Shares = Policy::Shares;
    for (const Shares& shares : {Shares{{0, 1}, {0, 1}, {0, 1}}, Shares{{0, 0.5}, {0, 1}, {0, 1}}, Shares{{0, 0}, {0, 0.5}, {0, 1}},
                                 Shares{{0, 1}, {0, 0}, {0, 1}}, Shares{{0, 0.3}, {0.2, 0}, {0, 0.5}}, Shares{{0, 0}, {0, 0}, {0, 0}}})
      for (const bool overlap : {true, false}) {
        CAPTURE(shares.weights.host, shares.cache.memory(), shares.activations.host, overlap);
        policy.shares = shares;
        policy.overlap = overlap;
        check(policy);
      }
    policy.overlap = true;
    policy.sep_layer = false;
    policy.verify = Verify::always;
    check(policy, {.io_engine = "threads"});
    policy.look_ahead_bytes = 1;
    policy.verify = Verify::off;
    check(policy);
  }
}

TEST_CASE("a plan that misses memory is refused before anything is read; damage is found while loading", "[engine]") {
  const TempDir dir;
  const std::string path = convert(testing::test_data("golden/prenorm-f16-bin"), dir);
  ThreadPool pool(2);
  {
    const LanguageModel m(path);
    Policy policy;
    const std::atomic<bool> stop{true};
    ProcessMemory process = process_memory();
    const auto offload = [&](const std::atomic<bool>* s) {
      uint64_t last = 0;
      Offload(m, policy, make_memory_plan(m.file(), m.description(), policy, {}, process), pool,
              {.progress = [&](uint64_t bytes) { last = bytes; }, .stop = s});
      return last;
    };
    CHECK(offload(nullptr) == m.file().weight_bytes());
    CHECK_FAULT(offload(&stop), Fault::interrupted, "stopped while loading");
    policy.memory_bytes = 10_MiB;
    CHECK_FAULT(offload(nullptr), Fault::space, "does not fit: found a need of ");
    CHECK_FAULT(offload(nullptr), Fault::space, " are missing. Give more --memory");
    policy.memory_bytes = 0;
    process.available_bytes = 1_MiB;
    CHECK_FAULT(offload(nullptr), Fault::space, " (what is free): ");
    CHECK_FAULT(offload(nullptr), Fault::space, " are missing. Give more memory to the machine or its cgroup");
  }
  const uint64_t where = LanguageModel(path).file().blocks()[3].offset + 5;
  {
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(static_cast<std::streamoff>(where));
    const char byte = static_cast<char>(f.get() ^ 1);
    f.seekp(static_cast<std::streamoff>(where));
    f.put(byte);
  }
  const LanguageModel m(path);
  CHECK_FAULT(greedy(m, pool, {}), Fault::damaged, "weights damaged: tensor '");
}
