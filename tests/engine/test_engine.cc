// SPDX-License-Identifier: Apache-2.0
// The engine on golden checkpoints: HF's greedy tokens whatever the block's shape; requests that wait, fail, end and are sampled.
#include "flexgen/engine/engine.h"

#include "support/engine_bench.h"
#include "support/errors.h"
#include "support/fake_io_engine.h"

using namespace flexgen;
using testing::Answer;
using testing::Answers;
using testing::EngineBench;
using testing::Golden;
using testing::kSmallGolden;
using testing::collect;

TEST_CASE("greedy tokens, texts and log-probabilities equal HF's on every golden checkpoint", "[engine][golden]") {
  for (const std::string& folder : testing::golden_folders()) {
    EngineBench b(folder);
    CAPTURE(b.golden.name);
    for (size_t i = 0; i < b.golden.sequences.size(); ++i) {
      Request r = b.greedy(i);
      r.settings.logprobs = 3;
      b.engine.submit(r);
    }
    const Answers answers = b.run();
    REQUIRE(answers.size() == b.golden.sequences.size());
    size_t i = 0, computed = 0;
    for (const auto& [key, a] : answers) {
      const auto& want = b.golden.sequences[i++];
      CAPTURE(i);
      CHECK(a.tokens == want.tokens);
      CHECK(a.reason == FinishReason::length);
      CHECK(a.text == b.tokenizer.decode(want.tokens, true));
      REQUIRE(a.logprobs.size() == want.logprobs.size());
      for (size_t t = 0; t < want.logprobs.size(); ++t) {
        CHECK(a.logprobs[t].logprob == Approx(want.logprobs[t]).margin(1e-4));
        CHECK(a.logprobs[t].top.size() == 3);
        CHECK(a.logprobs[t].top[0].first == want.tokens[t]);
      }
      computed += want.prompt_tokens.size() + want.tokens.size() - 1;
    }
    CHECK(b.engine.statistics().tokens_computed == computed);
    CHECK(b.engine.statistics().requests_done == answers.size());
  }
}

TEST_CASE("the shape of the block and the order of arrival change no token", "[engine]") {
  EngineOptions small;
  small.gpu_batch_size = 1, small.num_gpu_batches = 2, small.micro_batch_tokens = 3, small.sweep_tokens = 5;
  EngineOptions narrow;
  narrow.gpu_batch_size = 3, narrow.num_gpu_batches = 1, narrow.page_tokens = 64;
  for (const EngineOptions& o : {EngineOptions{}, small, narrow}) {
    EngineBench b(kSmallGolden, o, 3);
    for (int round = 0; round < 2; ++round)
      for (size_t i = b.golden.sequences.size(); i-- > 0;) b.engine.submit(b.greedy(i));
    Answers answers;
    for (int steps = 0; !b.engine.idle(); ++steps) {
      collect(b.engine.step(), answers);
      if (steps == 4) b.engine.submit(b.greedy(0));  // joins while others run
    }
    std::vector<const Answer*> in_order;
    for (const auto& [key, a] : answers) in_order.push_back(&a);
    const size_t n = b.golden.sequences.size();
    REQUIRE(in_order.size() == 2 * n + 1);
    for (size_t i = 0; i < in_order.size(); ++i) CHECK(in_order[i]->tokens == b.golden.sequences[i < 2 * n ? n - 1 - i % n : 0].tokens);
    CHECK(b.engine.statistics().peak_sequences <= static_cast<uint64_t>(o.gpu_batch_size * o.num_gpu_batches));
  }
}

TEST_CASE("a small cache makes requests wait, not fail; one that can never fit is refused", "[engine]") {
  EngineOptions o;
  const Golden g(kSmallGolden);
  const size_t page = round_up<size_t>(KvLayout{DType::f32, g.model().n_kv_heads, g.model().head_dim, 32}.page_bytes(), 4096);
  const int64_t longest = 64;
  o.kv_bytes = page * static_cast<size_t>(2 * g.model().n_layers * longest / 32);
  EngineBench b(kSmallGolden, o);
  for (size_t i = 0; i < b.golden.sequences.size(); ++i) b.engine.submit(b.greedy(i));
  Request big = b.greedy(0);
  big.settings.max_new_tokens = 100;
  b.engine.submit(big);
  const Answers answers = b.run();
  for (size_t i = 0; i < b.golden.sequences.size(); ++i) CHECK(answers.at({i + 1, 0}).tokens == b.golden.sequences[i].tokens);
  const Answer& refused = answers.at({b.golden.sequences.size() + 1, 0});
  CHECK(refused.reason == FinishReason::error);
  CHECK_THAT(refused.error, Catch::Contains("its KV cache needs") && Catch::Contains("Lower max_new_tokens"));
  CHECK(b.engine.statistics().requests_failed == 1);
  CHECK(b.engine.statistics().peak_kv_bytes <= o.kv_bytes);
}

TEST_CASE("a cache on disk waits for room as one in memory does, and changes no token", "[engine]") {
  const Golden g(kSmallGolden);
  const KvLayout layout{DType::f32, g.model().n_kv_heads, g.model().head_dim, 32};
  for (const double share : {0.0, 0.5}) {
    CAPTURE(share);
    // two of the five sequences at a time
    const KvDemand demand{g.model().n_layers, layout, 2, 64, 2, 16, share, true, 0};
    const KvRequirement r = kv_requirement(demand);
    const Fd file = testing::spill_file(r.disk_bytes());
    testing::FakeIoEngine io;
    EngineOptions o;
    o.kv = KvOptions::planned(demand, r);
    o.kv->io = &io;
    o.kv->spill_fd = file.get();
    o.gpu_batch_size = 2;
    o.micro_batch_tokens = 16;
    EngineBench b(kSmallGolden, o);
    for (size_t i = 0; i < b.golden.sequences.size(); ++i) b.engine.submit(b.greedy(i));
    const Answers answers = b.run();
    for (size_t i = 0; i < b.golden.sequences.size(); ++i) CHECK(answers.at({i + 1, 0}).tokens == b.golden.sequences[i].tokens);
    const KvStatistics kv = b.engine.kv_statistics();
    CHECK(kv.bytes_written > 0);
    CHECK(kv.bytes_read > 0);
    CHECK(kv.memory_bytes + kv.disk_bytes == 0);
    CHECK(kv.peak_disk_bytes > 0);
  }
}

TEST_CASE("requests that cannot be served say why; the others go on", "[engine]") {
  EngineBench b(kSmallGolden);
  Request r = b.greedy(0);
  const auto ask = [&](auto change) {
    Request x = b.greedy(0);
    change(x);
    return b.engine.submit(x);
  };
  std::map<RequestId, std::string> want;
  want[ask([](Request& x) { x.prompt.clear(); })] = "the prompt has no tokens";
  want[ask([](Request& x) { x.prompt[1] = 528; })] = "token 528 in the prompt: allowed 0 to 527";
  want[ask([](Request& x) { x.prompt[1] = -1; })] = "token -1 in the prompt: allowed 0 to 527";
  want[ask([](Request& x) { x.prompt.assign(129, 5); })] = "the prompt has 129 tokens, the model takes 128";
  want[ask([](Request& x) { x.settings.top_p = 2; })] = "top_p: found 2";
  const RequestId good = b.engine.submit(r);
  const Answers answers = b.run();
  for (const auto& [id, text] : want) {
    const Answer& a = answers.at({id, 0});
    CHECK(a.reason == FinishReason::error);
    CHECK_THAT(a.error, Catch::Contains(text));
    CHECK(a.tokens.empty());
    CHECK(a.last);
  }
  CHECK(answers.at({good, 0}).tokens == b.golden.sequences[0].tokens);
}

TEST_CASE("a full context ends the answer; a prompt that fills it gets one token", "[engine]") {
  EngineBench b(kSmallGolden);
  Request r = b.greedy(0);
  r.prompt.assign(128, 5);
  r.settings.max_new_tokens = 50;
  const RequestId full = b.engine.submit(r);
  r.prompt.assign(120, 5);
  const RequestId almost = b.engine.submit(r);
  const Answers answers = b.run();
  CHECK(answers.at({full, 0}).tokens.size() == 1);
  CHECK(answers.at({almost, 0}).tokens.size() == 9);
  CHECK(answers.at({almost, 0}).reason == FinishReason::length);
}

TEST_CASE("end tokens and stop strings end an answer", "[engine]") {
  EngineBench b(kSmallGolden);
  const auto& want = b.golden.sequences[0];
  Request r = b.greedy(0);
  r.settings.ignore_eos = false;
  r.settings.eos = {want.tokens[5]};
  const size_t first = static_cast<size_t>(std::find(want.tokens.begin(), want.tokens.end(), want.tokens[5]) - want.tokens.begin());
  const RequestId eos = b.engine.submit(r);
  r = b.greedy(0);
  const std::string text = b.tokenizer.decode(want.tokens, true);
  const std::string stop = text.substr(text.size() / 2, 3);
  r.settings.stop = {stop};
  const RequestId stopped = b.engine.submit(r);
  const Answers answers = b.run();
  CHECK(answers.at({eos, 0}).reason == FinishReason::eos);
  CHECK(answers.at({eos, 0}).tokens == std::vector<int32_t>(want.tokens.begin(), want.tokens.begin() + static_cast<ptrdiff_t>(first) + 1));
  CHECK(answers.at({stopped, 0}).reason == FinishReason::stop);
  CHECK(answers.at({stopped, 0}).text == text.substr(0, text.find(stop)));
}

TEST_CASE("samples share the prompt, and depend on nothing but seed, id and number", "[engine]") {
  const auto sampled = [](EngineBench& b, size_t i, int n) {
    Request r = b.greedy(i);
    r.settings.do_sample = true;
    r.settings.seed = 7;
    r.settings.num_return_sequences = n;
    return r;
  };
  Answers alone;
  {
    EngineBench b(kSmallGolden);
    b.engine.submit(sampled(b, 1, 5));
    alone = b.run();
    const auto& g = b.golden.sequences[1];
    CHECK(b.engine.statistics().tokens_computed == g.prompt_tokens.size() + 5 * (g.tokens.size() - 1));  // the prompt once
  }
  REQUIRE(alone.size() == 5);
  CHECK(alone.at({1, 0}).tokens != alone.at({1, 1}).tokens);
  EngineOptions narrow;  // samples wait for places
  narrow.gpu_batch_size = 2, narrow.num_gpu_batches = 1, narrow.micro_batch_tokens = 4;
  EngineOptions tight;  // and for pages
  const Golden g(kSmallGolden);
  tight.kv_bytes = 4096 * 8 * static_cast<size_t>(2 * g.model().n_layers * (2 + 1));
  for (const EngineOptions& o : {narrow, tight}) {
    EngineBench b(kSmallGolden, o);
    b.engine.submit(b.greedy(0));
    const RequestId id = b.engine.submit(sampled(b, 1, 5));
    b.engine.submit(sampled(b, 2, 3));
    const Answers answers = b.run();
    CHECK(answers.size() == 9);
    for (int k = 0; k < 5; ++k) CHECK(answers.at({id, k}).tokens == alone.at({1, k}).tokens);
    CHECK(answers.at({1, 0}).tokens == b.golden.sequences[0].tokens);
  }
}

TEST_CASE("a block needs places", "[engine]") {
  EngineOptions o;
  o.gpu_batch_size = 0;
  CHECK_FAULT(EngineBench(kSmallGolden, o), Fault::usage, "gpu-batch-size: found 0, allowed a whole number from 1");
}
