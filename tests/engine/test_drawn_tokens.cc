// SPDX-License-Identifier: Apache-2.0
// Tokens that a device draws: those that the CPU's sampler draws, and logits come to the host only where somebody needs them there.
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/deferred_backend.h"
#include "support/offload_run.h"
#include "support/streamed_model.h"

namespace drawn_tokens {

using namespace flexgen;
using testing::DeferredBackend;
using testing::FakeDevice;
using testing::FakeDeviceOptions;
using testing::Lateness;
using testing::OffloadRun;
using testing::small_shape;
using testing::StreamedModel;

namespace {

constexpr uint64_t kRow = 96 * sizeof(float), kId = sizeof(int32_t);  // bytes

class DrawnRun {
 public:
  DrawnRun() {
    run_.policy.gpu_batch_size = 3;
    run_.policy.micro_batch_tokens = 40;
    run_.policy.shares = Policy::Shares{{1, 0}, {1, 0}, {1, 0}};
  }

  GenerationSettings& add(int32_t n_prompt = 5) {
    Request& r = run_.requests.emplace_back();
    r.id = std::to_string(run_.requests.size());
    for (int32_t i = 0; i < n_prompt; ++i) r.prompt.push_back(4 + (i * 7 + n_prompt) % 90);
    r.settings.max_new_tokens = 6;
    r.settings.eos = {2};
    r.settings.ignore_eos = true;
    return r.settings;
  }
  GenerationSettings& add_sampled(int64_t top_k, double top_p = 1, double min_p = 0, double temperature = 1) {
    GenerationSettings& s = add(static_cast<int32_t>(5 + run_.requests.size()));
    s.do_sample = true, s.seed = 17;
    s.top_k = top_k, s.top_p = top_p, s.min_p = min_p, s.temperature = temperature;
    return s;
  }
  void add_drawable() {
    add(50);
    add_sampled(1);
    add_sampled(20, 1, 0, 0.7);
    add_sampled(512, 0.8);
    add_sampled(50, 0.9, 0.1, 1.5);
    add_sampled(40, 1, 0.5, 2);
    add(1);
  }

  // The tokens are the CPU's; returns the bytes that came to the host.
  uint64_t check(FakeDeviceOptions options = {}, int64_t undrawn = 0) {
    const OffloadRun::Result want = run_.on_host();
    FakeDevice card(options);
    DeferredBackend backend(card, *backends().front(), undrawn);
    const OffloadRun::Result got = run_.on(backend);
    CHECK(got.tokens() == want.tokens());
    for (const auto& [key, a] : got.answers) {
      CHECK(a.error == "");
      const auto& logprobs = want.answers.at(key).logprobs;
      REQUIRE(a.logprobs.size() == logprobs.size());
      for (size_t i = 0; i < logprobs.size(); ++i) CHECK((a.logprobs[i].logprob == logprobs[i].logprob && a.logprobs[i].top == logprobs[i].top));
    }
    return card.bytes_to_host();
  }
  uint64_t tokens() const {
    uint64_t n = 0;
    for (const Request& r : run_.requests) n += static_cast<uint64_t>(r.settings.num_return_sequences * r.settings.max_new_tokens);
    return n;
  }

 private:
  StreamedModel file_{small_shape()};
  OffloadRun run_{file_.path()};
};

}  // namespace

TEST_CASE("a device draws the CPU's tokens, and nothing but tokens comes to the host", "[engine][device]") {
  DrawnRun run;
  run.add_drawable();
  for (const auto lateness : {Lateness::late, Lateness::early, Lateness::random})
    for (const uint64_t seed : {1, 2}) CHECK(run.check({.lateness = lateness, .seed = seed}) == run.tokens() * kId);
}

TEST_CASE("a device chooses the likeliest tokens", "[engine][device]") {
  DrawnRun run;
  for (const int32_t n : {1, 33, 70}) run.add(n);
  CHECK(run.check() == run.tokens() * kId);
}

TEST_CASE("several samples of a prompt: the prompt's logits come to the host once, all other tokens are drawn", "[engine][device]") {
  DrawnRun run;
  run.add_sampled(30, 0.9).num_return_sequences = 4;
  CHECK(run.check() == kRow + (run.tokens() - 4) * kId);
}

TEST_CASE("logits come to the host for those requests alone that need them there", "[engine][device]") {
  DrawnRun run;
  const auto alone = [](auto&& add) {
    DrawnRun one;
    add(one);
    return one.check() == one.tokens() * kRow;
  };
  const std::vector<void (*)(DrawnRun&)> needy{[](DrawnRun& r) { r.add().logprobs = 3; },
                                               [](DrawnRun& r) { r.add_sampled(20).logprobs = 0; },
                                               [](DrawnRun& r) { r.add().repetition_penalty = 1.3; },
                                               [](DrawnRun& r) { r.add_sampled(20).no_repeat_ngram_size = 2; },
                                               [](DrawnRun& r) { r.add_sampled(0, 0.9); }};
  run.add_drawable();
  for (const auto& add : needy) {
    CHECK(alone(add));
    add(run);
  }
  const uint64_t on_host = needy.size() * 6;
  CHECK(run.check({.lateness = Lateness::random}) == run.tokens() * kId + on_host * kRow);
}

TEST_CASE("an end token that must wait is the host's until it need not", "[engine][device]") {
  DrawnRun run;
  GenerationSettings& s = run.add();
  s.ignore_eos = false, s.eos = {95}, s.min_new_tokens = 4;
  CHECK(run.check() == 4 * kRow + 2 * kId);
}

TEST_CASE("rows that a device does not draw are the host's", "[engine][device]") {
  DrawnRun run;
  run.add_drawable();
  for (const int64_t undrawn : {1, 3}) {
    CAPTURE(undrawn);
    const auto on_host = run.tokens() / static_cast<uint64_t>(undrawn);
    CHECK(run.check({.lateness = Lateness::random}, undrawn) == run.tokens() * kId + on_host * kRow);
  }
}

}  // namespace drawn_tokens
