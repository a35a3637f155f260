// SPDX-License-Identifier: Apache-2.0
#include "flexgen/engine/perplexity.h"

#include "flexgen/text/tokenizer.h"
#include "flexgen/format/tokenizer_files.h"
#include "kernels/registry.h"
#include "support/errors.h"
#include "support/golden.h"

using namespace flexgen;
using testing::CheckpointWeights;
using testing::Golden;

namespace {

PerplexityResult run(const Golden& g, std::span<const int32_t> tokens, PerplexityOptions o) {
  ThreadPool pool(2);
  CheckpointWeights weights(g.checkpoint, g.sources, 512);
  return perplexity(g.model(), *backends().front(), pool, weights, tokens, o);
}

}  // namespace

TEST_CASE("one window: the mean of what HF's logits give", "[engine]") {
  const Golden g(testing::test_data("golden/prenorm-f16-bin"));
  for (const auto& s : g.sequences) {
    std::vector<int32_t> tokens = s.prompt_tokens;
    tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    const auto v = static_cast<size_t>(g.model().vocab);
    double nll = 0;
    for (size_t t = 1; t < tokens.size(); ++t) {
      const float* row = s.logits.data() + (t - 1) * v;
      double max = -1e300, sum = 0;
      for (size_t i = 0; i < v; ++i) max = std::max(max, static_cast<double>(row[i]));
      for (size_t i = 0; i < v; ++i) sum += std::exp(static_cast<double>(row[i]) - max);
      nll -= static_cast<double>(row[tokens[t]]) - max - std::log(sum);
    }
    nll /= static_cast<double>(tokens.size() - 1);
    PerplexityOptions o;
    o.max_length = 128, o.stride = 64;
    const PerplexityResult r = run(g, tokens, o);
    CHECK(r.tokens == static_cast<int64_t>(tokens.size()) - 1);
    CHECK(r.nll == Approx(nll).epsilon(1e-5));
    CHECK(r.perplexity() == Approx(std::exp(nll)).epsilon(1e-4));
  }
}

TEST_CASE("how windows are batched changes no bit; every token but the first is scored once", "[engine]") {
  const Golden g(testing::test_data("golden/prenorm-f16-bin"));
  std::vector<int32_t> tokens;
  for (const auto& s : g.sequences) tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
  PerplexityOptions o;
  o.max_length = 32, o.stride = 8;
  const PerplexityResult want = run(g, tokens, o);
  CHECK(want.tokens == static_cast<int64_t>(tokens.size()) - 1);
  o.gpu_batch_size = 1, o.num_gpu_batches = 3, o.micro_batch_tokens = 5;
  const PerplexityResult other = run(g, tokens, o);
  CHECK(other.tokens == want.tokens);
  CHECK(other.nll == Approx(want.nll).epsilon(1e-12));  // sums in another order
  o.kv_bytes = 1;  // one window at a time
  CHECK(run(g, tokens, o).nll == Approx(want.nll).epsilon(1e-12));
  o.stride = 32;  // windows that do not overlap: each one's first token is not scored
  CHECK(run(g, tokens, o).tokens == static_cast<int64_t>(tokens.size() - div_up<size_t>(tokens.size(), 32)));
}

TEST_CASE("perplexities equal HF's on the evaluation texts", "[engine][golden]") {
  const auto eval = testing::shared_data("golden/eval.json");
  const auto texts = testing::shared_data("text");
  if (!eval || !texts) return;
  if (FLEXGEN_SANITIZED) {
    WARN("skipped: minutes under sanitizers, of the code that the two tests above run");
    return;
  }
  const std::string folder = testing::test_data("tiny-opt");
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const ModelSources sources = opt_sources(checkpoint, opt_description(parse_json(read_text_file(folder + "/config.json"), folder), folder), folder);
  const Tokenizer tokenizer = Tokenizer::from_files(read_tokenizer_files(folder), folder);
  ThreadPool pool(2);
  CheckpointWeights weights(checkpoint, sources, 512);
  const auto expected = parse_json(read_text_file(*eval), *eval);
  for (const auto& want : expected) {
    if (want.at("stride") == 32 || (want.at("stride") == 256 && want.at("text") == "eval-shakespeare.txt"))
      continue;  // minutes; `flexgen eval` shows it
    CAPTURE(want.dump());
    const std::vector<int32_t> tokens = tokenizer.encode(read_text_file(*texts + "/" + want.at("text").get<std::string>()));
    PerplexityOptions o;
    o.max_length = want.at("max_length"), o.stride = want.at("stride");
    const PerplexityResult got = perplexity(sources.description, *backends().front(), pool, weights, tokens, o);
    CHECK(got.tokens == want.at("tokens").get<int64_t>());
    CHECK(got.nll == Approx(want.at("nll").get<double>()).epsilon(1e-3));
    CHECK(got.perplexity() == Approx(want.at("perplexity").get<double>()).epsilon(1e-3));
  }
}

TEST_CASE("lengths out of range are refused", "[engine]") {
  const Golden g(testing::test_data("golden/prenorm-f16-bin"));
  const std::vector<int32_t> tokens(10, 5);
  PerplexityOptions o;
  o.max_length = 129;
  CHECK_FAULT(run(g, tokens, o), Fault::usage, "max-length: found 129, allowed 2 to the model's 128");
  o.max_length = 16, o.stride = 17;
  CHECK_FAULT(run(g, tokens, o), Fault::usage, "stride: found 17, allowed 1 to max-length, which is 16");
  o.stride = 0;
  CHECK_FAULT(run(g, tokens, o), Fault::usage, "stride: found 0");
  o.stride = 16;
  CHECK_FAULT(run(g, std::span(tokens).first(1), o), Fault::usage, "the text has 1 tokens");
}
