// SPDX-License-Identifier: Apache-2.0
// Requests that do not simply run to their end: cancelled and interrupted ones, dialogues, and those that come from other threads.
#include <thread>

#include "support/engine_bench.h"
#include "support/errors.h"

using namespace flexgen;
using testing::Answers;
using testing::EngineBench;
using testing::Golden;
using testing::kSmallGolden;
using testing::collect;

TEST_CASE("a request can be cancelled at any time, and what it held comes back", "[engine]") {
  EngineOptions o;
  o.gpu_batch_size = 2, o.num_gpu_batches = 2;
  for (int when = 0; when < 12; ++when) {
    CAPTURE(when);
    EngineBench b(kSmallGolden, o);
    Request many = b.greedy(1);
    many.settings.do_sample = true;
    many.settings.num_return_sequences = 6;
    const RequestId victim = b.engine.submit(many), other = b.engine.submit(b.greedy(0));
    Answers answers;
    for (int steps = 0; !b.engine.idle(); ++steps) {
      if (steps == when) b.engine.cancel(victim), b.engine.cancel(victim), b.engine.cancel(999);
      collect(b.engine.step(), answers);
    }
    CHECK(answers.at({other, 0}).tokens == b.golden.sequences[0].tokens);
    int cancelled = 0, last = 0;
    for (int k = 0; k < 6; ++k) {
      REQUIRE(answers.contains({victim, k}));
      REQUIRE(answers.at({victim, k}).reason);
      cancelled += answers.at({victim, k}).reason == FinishReason::cancelled;
      last += answers.at({victim, k}).last;
    }
    CHECK(last == 1);
    CHECK(cancelled > 0);
    // everything is free again: as many as the block takes run at once
    for (size_t i = 0; i < b.golden.sequences.size(); ++i) b.engine.submit(b.greedy(i));
    CHECK(b.run().size() == b.golden.sequences.size());
  }
}

TEST_CASE("an interrupted step leaves the engine as it was", "[engine]") {
  EngineBench b(kSmallGolden);
  for (size_t i = 0; i < b.golden.sequences.size(); ++i) b.engine.submit(b.greedy(i));
  std::atomic<bool> stop{false};
  Answers answers;
  for (int steps = 0; !b.engine.idle(); ++steps) {
    stop = steps % 3 == 0;
    if (stop) {
      CHECK_FAULT(b.engine.step(&stop), Fault::interrupted, "stopped");
    } else {
      collect(b.engine.step(&stop), answers);
    }
  }
  for (size_t i = 0; i < b.golden.sequences.size(); ++i) CHECK(answers.at({i + 1, 0}).tokens == b.golden.sequences[i].tokens);
}

TEST_CASE("a dialogue computes only what is new, and gives the tokens of the whole", "[engine]") {
  const Golden g(kSmallGolden);
  const auto& first = g.sequences[0];
  const std::vector<int32_t> second{17, 91, 333, 40};
  std::vector<int32_t> whole;
  {
    EngineBench b(kSmallGolden);
    Request r = b.greedy(0);
    r.prompt.insert(r.prompt.end(), first.tokens.begin(), first.tokens.end());
    r.prompt.insert(r.prompt.end(), second.begin(), second.end());
    r.settings.max_new_tokens = 10;
    b.engine.submit(r);
    whole = b.run().at({1, 0}).tokens;
  }
  EngineBench b(kSmallGolden);
  const SessionId session = b.engine.open_session();
  Request r = b.greedy(0);
  r.session = session;
  b.engine.submit(r);
  CHECK(b.run().at({1, 0}).tokens == first.tokens);
  const uint64_t before = b.engine.statistics().tokens_computed;
  CHECK(b.engine.session_tokens(session).size() == first.prompt_tokens.size() + first.tokens.size());
  Request next = b.greedy(0);
  next.session = session;
  next.prompt = second;
  next.settings.max_new_tokens = 10;
  b.engine.submit(next);
  b.engine.submit(next);  // the second waits for its turn in vain: the dialogue is busy
  const Answers answers = b.run();
  CHECK(answers.at({2, 0}).tokens == whole);
  CHECK(answers.at({3, 0}).error == "the dialogue is still answering");
  // the last token of the first answer, the new prompt, and all new tokens but the last
  CHECK(b.engine.statistics().tokens_computed - before == 1 + second.size() + 9);

  // rewound, the same again
  b.engine.rewind_session(session, first.prompt_tokens.size() + first.tokens.size());
  b.engine.submit(next);
  CHECK(b.run().at({4, 0}).tokens == whole);

  // full: says so, and stays usable after a rewind
  next.prompt.assign(100, 9);
  b.engine.submit(next);
  CHECK_THAT(b.run().at({5, 0}).error, Catch::Contains("the context is full") && Catch::Contains("/reset"));
  b.engine.rewind_session(session, 0);
  r.session = session;
  b.engine.submit(r);
  CHECK(b.run().at({6, 0}).tokens == first.tokens);
  b.engine.close_session(session);
  b.engine.submit(b.greedy(1));
  CHECK(b.run().at({7, 0}).tokens == g.sequences[1].tokens);
  b.engine.submit(r);
  CHECK(b.run().at({8, 0}).error == fmt::format("there is no dialogue {}", session));
}

TEST_CASE("requests may come from other threads while the engine steps", "[engine]") {
  EngineBench b(kSmallGolden);
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) {
      const RequestId id = b.engine.submit(b.greedy(static_cast<size_t>(i) % b.golden.sequences.size()));
      if (i % 5 == 4) b.engine.cancel(id);
      (void)b.engine.idle();
    }
  });
  Answers answers;
  while (answers.size() < 20 || !b.engine.idle()) collect(b.engine.step(), answers);
  other.join();
  int whole = 0;
  for (const auto& [key, a] : answers) whole += a.reason == FinishReason::length;
  CHECK(whole >= 16);
}
