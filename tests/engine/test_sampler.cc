// SPDX-License-Identifier: Apache-2.0
// Sampling against HF's own processors (tests/data/sampling, made by HF), its rules for ties written out, and that a draw depends
// on nothing but seed, request, sample and position.
#include "flexgen/engine/sampler.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

namespace {

// what may be drawn and how likely it is, [V]
std::vector<double> probabilities(const GenerationSettings& s, const std::vector<float>& logits, const std::vector<int32_t>& context,
                                  size_t n_new = 0) {
  SamplerScratch scratch;
  std::vector<float> scores = logits;
  process_context(s, scores, context, n_new, scratch);
  weigh_candidates(s, scores, scratch);
  std::vector<double> p(logits.size());
  double total = 0;
  for (const Candidate& c : scratch.candidates) total += c.weight;
  for (const Candidate& c : scratch.candidates) p[static_cast<size_t>(c.id)] = c.weight / total;
  return p;
}

GenerationSettings sampling() {
  GenerationSettings s;
  s.do_sample = true;
  s.top_k = 0;
  return s;
}

// ids with a probability above 0
std::vector<int32_t> support(const std::vector<double>& p) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i] > 0) ids.push_back(static_cast<int32_t>(i));
  return ids;
}

using Ids = std::vector<int32_t>;

void compare_with_hf(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  int n = 0;
  for (; std::getline(in, line); ++n) {
    const auto row = nlohmann::json::parse(line);
    GenerationSettings s;
    s.do_sample = true;
    s.temperature = row["temperature"];
    s.top_k = row["top_k"];
    s.top_p = row["top_p"];
    s.min_p = row["min_p"];
    s.repetition_penalty = row["repetition_penalty"];
    s.no_repeat_ngram_size = row["no_repeat_ngram_size"];
    const auto got = probabilities(s, row["logits"].get<std::vector<float>>(), row["previous"].get<Ids>());
    const auto want = row["probabilities"].get<std::vector<double>>();
    INFO(path << " line " << n + 1);
    REQUIRE(got.size() == want.size());
    // The file's logits are doubles; as f32, and divided by temperature in f32, a score near 200 moves by 2e-5.
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const double difference = std::abs(got[i] - want[i]);
      worst = difference <= worst ? worst : difference;
    }
    CHECK(worst < 2e-5);
    for (size_t i = 0; i < want.size(); ++i)
      if ((got[i] > 1e-8) != (want[i] > 1e-8)) CHECK(std::abs(got[i] - want[i]) < 2e-9);
  }
  CHECK(n >= 40);
}

}  // namespace

TEST_CASE("probabilities equal HF's on every row of the committed part") { compare_with_hf(testing::test_data("sampling/processors.jsonl")); }

TEST_CASE("probabilities equal HF's on every row") {
  if (const auto path = testing::shared_data("golden/sampling/processors.jsonl")) compare_with_hf(*path);
}

TEST_CASE("top_k keeps whatever equals the k-th") {
  GenerationSettings s = sampling();
  s.top_k = 2;
  CHECK(support(probabilities(s, {1, 3, 2, 2, 2, 0}, {})) == Ids{1, 2, 3, 4});
  s.top_k = 1;
  CHECK(support(probabilities(s, {3, 3, 3, 1}, {})) == Ids{0, 1, 2});
  s.top_k = 100;
  CHECK(support(probabilities(s, {3, 1}, {})) == Ids{0, 1});
}

TEST_CASE("top_p removes ascending while the sum is at most 1 - p, of equal ones the lower id first") {
  GenerationSettings s = sampling();
  s.top_p = 0;
  CHECK(support(probabilities(s, {2, 2, 1, 2}, {})) == Ids{3});
  s.top_p = 0.5;  // four equal ones: after two the sum is 0.5 <= 0.5, so two go
  CHECK(support(probabilities(s, {1, 1, 1, 1}, {})) == Ids{2, 3});
  s.top_p = 0.51;
  CHECK(support(probabilities(s, {1, 1, 1, 1}, {})) == Ids{1, 2, 3});
}

TEST_CASE("top_p over a large vocabulary equals a full sort") {
  std::mt19937 random(5);
  for (const double p : {0.001, 0.3, 0.9, 0.999, 0.999999}) {
    std::vector<float> logits(5000);
    for (float& x : logits) x = static_cast<float>(static_cast<int>(random() % 1000)) / 100;
    GenerationSettings s = sampling();
    s.top_p = p;
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] < logits[b]; });
    long double total = 0, sum = 0;
    for (const float x : logits) total += std::exp(static_cast<long double>(x) - 10);
    std::vector<bool> keep(logits.size(), true);
    for (size_t i = 0; i + 1 < order.size(); ++i) {
      sum += std::exp(static_cast<long double>(logits[order[i]]) - 10) / total;
      if (sum <= 1 - p) keep[order[i]] = false;
    }
    const auto got = probabilities(s, logits, {});
    for (size_t i = 0; i < got.size(); ++i) REQUIRE((got[i] > 0) == keep[i]);
  }
}

TEST_CASE("min_p compares with the likeliest, and 1 keeps its equals") {
  GenerationSettings s = sampling();
  s.min_p = 1;
  CHECK(support(probabilities(s, {2, 1, 2, 0}, {})) == Ids{0, 2});
  s.min_p = 0.3;  // e^-1 = 0.37, e^-2 = 0.14
  CHECK(support(probabilities(s, {2, 1, 2, 0}, {})) == Ids{0, 1, 2});
}

TEST_CASE("repetition_penalty acts once on each id, on either sign") {
  GenerationSettings s;
  s.repetition_penalty = 2;
  std::vector<float> scores{4, -4, 1, 0};
  SamplerScratch scratch;
  process_context(s, scores, Ids{0, 1, 0, 1, 0}, 0, scratch);
  CHECK(scores == std::vector<float>{2, -8, 1, 0});
}

TEST_CASE("no_repeat_ngram_size bans what followed the same ids before") {
  const float banned = -std::numeric_limits<float>::infinity();
  const auto scores_for = [](int64_t n, const Ids& context) {
    GenerationSettings s;
    s.no_repeat_ngram_size = n;
    std::vector<float> scores(4, 1.0f);
    SamplerScratch scratch;
    process_context(s, scores, context, 0, scratch);
    return scores;
  };
  CHECK(scores_for(1, {0, 2}) == std::vector<float>{banned, 1, banned, 1});
  CHECK(scores_for(2, {0, 1, 0, 2, 0}) == std::vector<float>{1, banned, banned, 1});
  CHECK(scores_for(3, {0, 1, 3, 0, 1}) == std::vector<float>{1, 1, 1, banned});
  CHECK(scores_for(3, {0, 1}) == std::vector<float>{1, 1, 1, 1});
  CHECK(scores_for(2, {}) == std::vector<float>{1, 1, 1, 1});
}

TEST_CASE("min_new_tokens keeps end tokens away, but not where they are ignored") {
  GenerationSettings s;
  s.eos = {1, 3, 99};  // one outside the vocabulary, as padded vocabularies have
  s.min_new_tokens = 2;
  SamplerScratch scratch;
  const std::vector<float> logits{0, 5, 1, 4};
  const Ids two{0, 2}, three{0, 2, 2}, four{0, 2, 2, 2};
  const Sampler sampler(s, 0, 0);
  CHECK(sampler.next(logits, two, 2, scratch).id == 2);
  CHECK(sampler.next(logits, three, 2, scratch).id == 2);
  CHECK(sampler.next(logits, four, 2, scratch).id == 1);
  s.ignore_eos = true;
  CHECK(sampler.next(logits, two, 2, scratch).id == 1);
}

TEST_CASE("greedy takes the lowest of equal ids and ignores the settings of sampling") {
  GenerationSettings s;
  s.temperature = 0;
  s.min_p = 0.5;
  SamplerScratch scratch;
  CHECK(Sampler(s, 0, 0).next(std::vector<float>{1, 7, 7, 2}, Ids{0}, 1, scratch).id == 1);
}

TEST_CASE("draws follow the probabilities") {
  GenerationSettings s = sampling();
  s.temperature = 1.5;
  s.seed = 42;
  const std::vector<float> logits{0, 1, 2, 3, -2};
  const auto p = probabilities(s, logits, {});
  SamplerScratch scratch;
  constexpr int kDraws = 40000;
  std::vector<int> count(logits.size());
  for (uint32_t i = 0; i < kDraws; ++i) ++count[static_cast<size_t>(Sampler(s, i, 0).next(logits, Ids{0}, 1, scratch).id)];
  double chi2 = 0;
  for (size_t i = 0; i < p.size(); ++i) chi2 += (count[i] - kDraws * p[i]) * (count[i] - kDraws * p[i]) / (kDraws * p[i]);
  CHECK(chi2 < 18.5);  // 4 degrees of freedom: 0.1 % of true samples exceed it
}

TEST_CASE("a draw depends on seed, request, sample and position, and on nothing that was drawn before") {
  GenerationSettings s = sampling();
  s.seed = 9;
  std::vector<float> logits(64, 0.0f);
  SamplerScratch scratch, other;
  const auto sequence = [&](uint64_t request, uint32_t sample, SamplerScratch& with) {
    Ids context{5, 6};
    for (int i = 0; i < 32; ++i) context.push_back(Sampler(s, request, sample).next(logits, context, 2, with).id);
    return context;
  };
  const Ids first = sequence(request_hash("a"), 0, scratch);
  CHECK(sequence(request_hash("a"), 1, scratch) != first);
  CHECK(sequence(request_hash("b"), 0, scratch) != first);
  CHECK(sequence(request_hash("a"), 0, other) == first);
  s.seed = 10;
  CHECK(sequence(request_hash("a"), 0, other) != first);
}

TEST_CASE("settings that leave no token, and logits that are not finite, are errors of the request") {
  GenerationSettings s;
  s.no_repeat_ngram_size = 1;
  SamplerScratch scratch;
  CHECK_FAULT(Sampler(s, 0, 0).next(std::vector<float>{1, 2}, Ids{0, 1}, 1, scratch), Fault::usage,
              "no token of 2 is left after 2 tokens. Raise no_repeat_ngram_size or lower min_new_tokens");
  s.do_sample = true;
  CHECK_FAULT(Sampler(s, 0, 0).next(std::vector<float>{1, 2}, Ids{0, 1}, 1, scratch), Fault::usage, "no token of 2 is left");
  CHECK_FAULT(Sampler({}, 0, 0).next(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()}, Ids{0}, 1, scratch), Fault::damaged,
              "logits after token 1: found nan for id 1, allowed finite numbers");
  CHECK_FAULT(Sampler({}, 0, 0).next(std::vector<float>{-std::numeric_limits<float>::infinity(), 1}, Ids{0}, 1, scratch), Fault::damaged,
              "found -inf for id 0");
}

TEST_CASE("extreme but finite settings still choose") {
  GenerationSettings s = sampling();
  s.temperature = 1e-30;
  s.repetition_penalty = 1e6;
  SamplerScratch scratch;
  const std::vector<float> logits{3e38f, 1, -3e38f, 2.9e38f};
  CHECK(Sampler(s, 0, 0).next(logits, Ids{2}, 1, scratch).id == 0);
  CHECK(Sampler(s, 0, 0).next(std::vector<float>{5, 4, 3}, Ids{2}, 1, scratch).id == 0);
}

TEST_CASE("log-probabilities are of the model's own logits, before any processor") {
  GenerationSettings s;
  s.logprobs = 2;
  s.repetition_penalty = 5;
  SamplerScratch scratch;
  const std::vector<float> logits{2, 1.5f, 0};
  const auto token = Sampler(s, 0, 0).next(logits, Ids{0}, 1, scratch);
  CHECK(token.id == 1);  // the penalty made 2 into 0.4
  REQUIRE(token.logprobs);
  const double sum = std::log(std::exp(2.0) + std::exp(1.5) + 1);
  CHECK(token.logprobs->logprob == Approx(1.5 - sum).epsilon(1e-14));
  REQUIRE(token.logprobs->top.size() == 2);
  CHECK(token.logprobs->top[0].first == 0);
  CHECK(token.logprobs->top[0].second == Approx(2 - sum).epsilon(1e-14));
  CHECK(token.logprobs->top[1].first == 1);
}
