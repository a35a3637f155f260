// SPDX-License-Identifier: Apache-2.0
// Golden checkpoints through the CUDA kernels: HF's tokens and logits, by a sweep on a card that is late. The kernels run in the emulator,
// so a few sequences are all that there is time for; "[golden_all]" is everything, in minutes.
#include <cmath>

#include "cuda_backend/emulated_card.h"
#include "flexgen/runtime/sweep.h"
#include "kernels/cuda/api/backend.h"
#include "support/compare.h"
#include "support/golden.h"

using namespace flexgen;
using namespace flexgen::testing;
using cuda::Arithmetic;

namespace {

std::vector<int32_t> tokens_of(const GoldenSequence& s) {
  std::vector<int32_t> t = s.prompt_tokens;
  t.insert(t.end(), s.tokens.begin(), s.tokens.end() - 1);
  return t;
}

// Teacher-forced logits of every position of every sequence, [n_tok, V] each: the first `whole` tokens of each in one sweep, the others one
// by one
std::vector<std::vector<float>> logits_on_card(const Golden& g, std::span<const GoldenSequence> sequences, Arithmetic arithmetic, DType kv,
                                               int64_t whole, Lateness lateness = Lateness::late) {
  const ModelDescription& model = g.model();
  FakeDeviceOptions options;
  options.lateness = lateness;
  EmulatedCard card(options);
  const auto backend = cuda::make_cuda_backend(card.device(), {arithmetic});
  ThreadPool pool(1);
  CheckpointWeights weights(g.checkpoint, g.sources);
  const KvLayout layout{kv, model.n_kv_heads, model.head_dim, 32};
  KvStore cache(KvOptions::in_memory(model.n_layers, layout, 256_MiB));

  const Program program = opt_program(model);
  DeviceDemand demand;
  std::vector<std::vector<int32_t>> tokens;
  std::vector<SequenceId> ids;
  std::vector<std::vector<float>> out;
  for (const GoldenSequence& s : sequences) {
    tokens.push_back(tokens_of(s)), ids.push_back(cache.create());
    const auto n = static_cast<int64_t>(tokens.back().size());
    demand.tokens += std::min(n, whole), demand.sequences += 1, demand.pages += 2 * ((n + 31) / 32);
    out.emplace_back(static_cast<size_t>(n * model.vocab), std::nanf(""));
  }
  for (const RecordSpec& record : records(model))
    for (const TensorSpec& t : record.tensors)
      if (t.shape.size() == 2) {
        demand.widest_rows = std::max(demand.widest_rows, t.shape[0]);
        demand.widest_cols = std::max(demand.widest_cols, t.shape[1]);
      }
  demand.weights = g.sources.tensors.front().dtype, demand.n_heads = model.n_heads, demand.layout = layout;

  SweepOptions sweep_options;
  sweep_options.scratch = card.room(scratch_bytes(program, demand.tokens));
  sweep_options.head = card.room(head_bytes(program, demand.tokens));
  sweep_options.host_logits = card.pinned(static_cast<size_t>(demand.tokens * model.vocab) * sizeof(float));
  Sweep sweep(model, backend->operations(), {&pool, &card.queue(*backend, demand)}, weights, cache, sweep_options);
  for (bool more = true; more;) {
    std::vector<Span> spans;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t done = cache.length(ids[i]), left = static_cast<int64_t>(tokens[i].size()) - done, n = std::min(done == 0 ? whole : 1, left);
      if (n > 0) spans.push_back({ids[i], {tokens[i].begin() + done, tokens[i].begin() + done + n}, done, 0});
    }
    more = !spans.empty();
    const SweepPlan plan = pack(std::move(spans), 16, 1024);
    sweep.run(plan, [&](const LogitsRow& row) {
      const Span& s = plan.micro_batches[row.micro_batch].spans[row.span];
      const size_t i = static_cast<size_t>(std::find(ids.begin(), ids.end(), s.sequence) - ids.begin());
      std::copy(row.values.begin(), row.values.end(), out[i].begin() + (s.first_position + row.token) * model.vocab);
    });
    for (const MicroBatch& m : plan.micro_batches)
      for (const Span& s : m.spans) cache.commit(s.sequence, s.n_tok());
  }
  return out;
}

size_t largest_at(const float* row, size_t n) { return static_cast<size_t>(std::max_element(row, row + n) - row); }

// "", or where logits differ from HF's by more than this share of the largest, or where the likeliest token is another although HF's lead is
// more than twice that
std::string against_hf(const Golden& g, const GoldenSequence& s, const std::vector<float>& got, double share) {
  const auto v = static_cast<size_t>(g.model().vocab);
  double largest = 0;
  for (const float f : s.logits) largest = std::max(largest, std::abs(static_cast<double>(f)));
  if (const std::string d = difference(got, s.logits, Tolerance{share * largest, 0}); !d.empty()) return d;
  for (size_t at = 0; at < got.size(); at += v) {
    const size_t best = largest_at(s.logits.data() + at, v);
    double second = -INFINITY;
    for (size_t i = 0; i < v; ++i)
      if (i != best) second = std::max(second, static_cast<double>(s.logits[at + i]));
    if (static_cast<double>(s.logits[at + best]) - second > 2 * share * largest && largest_at(got.data() + at, v) != best)
      return fmt::format("position {}: token {}, HF has {}", at / v, largest_at(got.data() + at, v), best);
  }
  return "";
}

// The tokens that greedy decoding gives: each is the likeliest after those before it
bool same_tokens(const Golden& g, const GoldenSequence& s, const std::vector<float>& got) {
  const auto v = static_cast<size_t>(g.model().vocab);
  for (size_t i = 0; i < s.tokens.size(); ++i)
    if (largest_at(got.data() + (s.prompt_tokens.size() - 1 + i) * v, v) != static_cast<size_t>(s.tokens[i])) return false;
  return true;
}

void check_exact(const Golden& g, std::span<const GoldenSequence> sequences, int64_t whole, Lateness lateness = Lateness::late) {
  const auto got = logits_on_card(g, sequences, Arithmetic::f32, DType::f32, whole, lateness);
  for (size_t i = 0; i < sequences.size(); ++i) {
    CAPTURE(g.name, i, whole);
    CHECK(against_hf(g, sequences[i], got[i], 1e-5) == "");
    CHECK(same_tokens(g, sequences[i], got[i]));
  }
}

// 4e-3 of the largest logit for f16, 3e-2 for bf16
void check_fast(const Golden& g, std::span<const GoldenSequence> sequences, int64_t whole) {
  const bool bf16 = g.sources.tensors.front().dtype == DType::bf16;
  const auto got = logits_on_card(g, sequences, Arithmetic::fast, DType::f16, whole);
  for (size_t i = 0; i < sequences.size(); ++i) {
    CAPTURE(g.name, i, whole);
    CHECK(against_hf(g, sequences[i], got[i], bf16 ? 3e-2 : 4e-3) == "");
  }
}

void check_batch(const Golden& g, std::span<const GoldenSequence> sequences, int64_t whole) {
  const auto batch = logits_on_card(g, sequences, Arithmetic::one_order, DType::f16, whole);
  for (size_t i = 0; i < sequences.size(); ++i) {
    CAPTURE(g.name, i, whole);
    CHECK(bit_difference(logits_on_card(g, sequences.subspan(i, 1), Arithmetic::one_order, DType::f16, 1000)[0], batch[i]) == "");
  }
}

bool race_mode() { return emulation({}).race; }  // only what is registered may be touched there, and weights and cache are the host's

}  // namespace

TEST_CASE("CUDA kernels give HF's tokens and logits of golden checkpoints in f32", "[cuda][golden]") {
  if (race_mode()) return;
  for (const char* const folder : {"golden/prenorm-f16-bin", "golden/postnorm-proj-f16"}) {
    const Golden g(test_data(folder));
    check_exact(g, std::span(g.sequences).first(2), 20, Lateness::random);
  }
}

TEST_CASE("CUDA kernels stay near HF's logits of golden checkpoints in f16 and bf16", "[cuda][golden]") {
  if (race_mode()) return;
  for (const char* const folder : {"golden/prenorm-f16-bin", "golden/postnorm-proj-f16", "golden/head128-bf16-sharded"}) {
    const Golden g(test_data(folder));
    check_fast(g, std::span(g.sequences).first(2), 28);
  }
}

TEST_CASE("CUDA kernels with one order: logits have the same bits in a batch and alone", "[cuda][golden]") {
  if (race_mode()) return;
  const Golden g(test_data("golden/prenorm-f16-bin"));
  check_batch(g, std::span(g.sequences).last(2), 20);
}

TEST_CASE("CUDA kernels on every golden checkpoint", "[.][golden_all]") {
  for (const std::string& folder : golden_folders()) {
    const Golden g(folder);
    if (g.sequences.front().tokens.size() > 100) {
      WARN(g.name << ": left out, hours in the emulator");
      continue;
    }
    check_exact(g, g.sequences, 20);
    check_fast(g, g.sequences, 20);
    check_fast(g, g.sequences, 1000);
    check_batch(g, g.sequences, 9);
  }
}
