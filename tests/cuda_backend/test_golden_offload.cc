// SPDX-License-Identifier: Apache-2.0
// The whole program on a card whose kernels run in the emulator: weights, cache and activations in three tiers, streams and copies that are
// late or out of order, and the answers that HF has, whatever lies where.
#include <cmath>
#include <optional>
#include <vector>

#include "cuda_backend/emulated_card.h"
#include "kernels/cuda/api/backend.h"
#include "support/offload_run.h"
#include "support/streamed_model.h"

namespace golden_offload {

using namespace flexgen;
using namespace flexgen::testing;
using cuda::Arithmetic;

namespace {

constexpr size_t kKnown = 20, kNew = 3;  // of HF's tokens: in the prompt, so that the cache has full pages, and to be found
constexpr int64_t kLogprobs = 5;

struct Placement {
  TierShare weights, cache, activations = {1, 0};
  bool attend_on_host = false;
  Lateness lateness = Lateness::late;
  uint64_t seed = 1;
};

const Placement kResident{{1, 0}, {1, 0}};
const std::vector<Placement> kStreamed{{{0.4, 0.3}, {0.3, 0.4}, {1, 0}, false, Lateness::random, 2},
                                       {{0, 0.5}, {0, 0.5}, {0.3, 0.4}, false, Lateness::late, 3},
                                       {{0.5, 0}, {0.5, 0.2}, {0, 0.5}, false, Lateness::early, 4}};
const std::vector<Placement> kAttendedOnHost{{{0.4, 0.3}, {0, 1}, {1, 0}, true, Lateness::late, 5},
                                             {{0, 0.5}, {0.3, 0.4}, {0.3, 0.4}, true, Lateness::random, 6}};

// Two sequences of HF's and one of several pages. The first one's tokens are drawn on the card, the others' logits come to the host.
class GoldenRun {
 public:
  GoldenRun(Arithmetic arithmetic, DType kv, bool deterministic) : arithmetic_(arithmetic) {
    run_.policy.gpu_batch_size = 2;
    run_.policy.micro_batch_tokens = 64;
    run_.policy.look_ahead_bytes = 1;  // the smallest ring
    run_.policy.verify = Verify::always;
    run_.policy.kv_dtype = kv;
    run_.policy.deterministic = deterministic;
    for (const size_t i : {1, 3}) {
      const GoldenSequence& s = golden_.sequences[i];
      std::vector<int32_t>& prompt = add();
      prompt = s.prompt_tokens;
      prompt.insert(prompt.end(), s.tokens.begin(), s.tokens.begin() + kKnown);
      of_hf_.emplace_back(s.tokens.begin() + kKnown, s.tokens.begin() + kKnown + kNew);
    }
    std::vector<int32_t>& longer = add();
    for (int32_t t = 0; t < 66; ++t) longer.push_back(5 + t * 7 % 490);
    for (size_t i = 1; i < run_.requests.size(); ++i) run_.requests[i].settings.logprobs = kLogprobs;
  }

  Answers operator()(const Placement& p) {
    run_.policy.shares = Policy::Shares{p.weights, p.cache, p.activations};
    run_.policy.cpu_cache_compute = p.attend_on_host;
    run_.policy.overlap = p.seed % 2 == 0;
    FakeDeviceOptions options;
    options.lateness = p.lateness, options.seed = p.seed;
    EmulatedCard card(options);
    const auto backend = cuda::make_cuda_backend(card.device(), {arithmetic_});
    OffloadRun::Result r = run_.on(*backend);
    CHECK((r.weights.streamed_bytes > 0) == (p.weights.device < 1));
    CHECK((r.kv.peak_host_bytes > 0) == (p.cache.host > 0));
    CHECK((r.kv.bytes_read > 0) == (p.cache.memory() < 1));
    CHECK((r.on_device->attended_bytes > 0) == p.attend_on_host);
    return std::move(r.answers);
  }

  const std::vector<std::vector<int32_t>>& of_hf() const { return of_hf_; }

 private:
  std::vector<int32_t>& add() {
    Request& r = run_.requests.emplace_back();
    r.settings.max_new_tokens = kNew;
    r.settings.ignore_eos = true;
    return r.prompt;
  }

  const Golden golden_{kSmallGolden};
  StreamedModel file_{kSmallGolden};
  OffloadRun run_{file_.path()};
  const Arithmetic arithmetic_;
  std::vector<std::vector<int32_t>> of_hf_;
};

bool same_tokens(const Answers& a, const Answers& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return x.second.tokens == y.second.tokens; });
}

// The largest difference of two log-probabilities
double difference(const Answers& a, const Answers& b) {
  double most = 0;
  for (const auto& [key, x] : a)
    for (size_t t = 0; t < x.logprobs.size(); ++t) {
      const TokenLogprobs &p = x.logprobs[t], &q = b.at(key).logprobs.at(t);
      most = std::max(most, std::abs(p.logprob - q.logprob));
      for (size_t i = 0; i < p.top.size(); ++i) most = std::max(most, std::abs(p.top[i].second - q.top.at(i).second));
    }
  return most;
}

std::span<const Placement> some(const std::vector<Placement>& all) { return std::span(all).first(FLEXGEN_SANITIZED ? 1 : all.size()); }

bool race_mode() { return emulation({}).race; }  // whole sweeps are too slow there

}  // namespace

TEST_CASE("CUDA kernels under an engine that streams: HF's tokens, and f32 logits as with everything on the card", "[cuda][golden]") {
  if (race_mode()) return;
  GoldenRun run(Arithmetic::f32, DType::f32, false);
  const Answers resident = run(kResident);
  for (size_t i = 0; i < run.of_hf().size(); ++i) CHECK(resident.at({i + 1, 0}).tokens == run.of_hf()[i]);
  for (const auto& placements : {some(kStreamed), some(kAttendedOnHost)})
    for (const Placement& p : placements) {
      CAPTURE(p.seed);
      const Answers got = run(p);
      CHECK(same_tokens(got, resident));
      CHECK(difference(got, resident) < 1e-5);
    }
}

TEST_CASE("CUDA kernels with one order: the same bits wherever weights, cache and activations lie", "[cuda][golden]") {
  if (race_mode()) return;
  GoldenRun run(Arithmetic::one_order, DType::f16, true);
  const Answers resident = run(kResident);
  for (const Placement& p : some(kStreamed)) {
    CAPTURE(p.seed);
    const Answers got = run(p);
    CHECK(same_tokens(got, resident));
    CHECK(difference(got, resident) == 0);
  }
  for (const Placement& p : some(kAttendedOnHost)) {
    CAPTURE(p.seed);
    CHECK(same_tokens(run(p), resident));
  }
}

}  // namespace golden_offload
