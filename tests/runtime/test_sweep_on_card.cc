// SPDX-License-Identifier: Apache-2.0
// The sweep on a card that is late, over a cache of three tiers, some of it attended on the host.
#include <map>
#include <tuple>

#include "flexgen/model/records.h"
#include "flexgen/runtime/sweep.h"
#include "kernels/registry.h"
#include "support/deferred_backend.h"
#include "support/kv_device.h"
#include "support/swept_logits.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// A checkpoint's weights, each copied to the card when it is asked for the first time
class CardWeights final : public WeightStream {
 public:
  CardWeights(const Golden& g, FakeDevice& card, Device::Stream stream)
      : host_(g.checkpoint, g.sources), records_(records(g.model())), card_(card), stream_(stream) {
    size_t bytes = 0;
    for (const RecordSpec& r : records_)
      for (const TensorSpec& t : r.tensors) {
        size_t values = 1;
        for (const int64_t n : t.shape) values *= static_cast<size_t>(n);
        bytes += values * sizeof(float) + kRound * static_cast<size_t>(t.shape[0]);
      }
    memory_ = DeviceMemory(card_, bytes);
  }

  void begin_sweep(const SweepOrder& order) override { host_.begin_sweep(order); }
  size_t at_once() const override { return host_.at_once(); }
  size_t n_blocks(TensorRef t) const override { return host_.n_blocks(t); }
  WeightView acquire(TensorRef t, size_t first, size_t last) override { return on_card(host_.acquire(t, first, last)); }
  void release(TensorRef t, size_t first, size_t last) override { host_.release(t, first, last); }
  WeightView acquire_rows(TensorRef t, std::span<const int32_t> rows) override { return on_card(host_.acquire_rows(t, rows)); }
  void release_rows(TensorRef t) override { host_.release_rows(t); }
  const float* vector(TensorRef t) const override {
    return reinterpret_cast<const float*>(on_card(reinterpret_cast<const std::byte*>(host_.vector(t)),
                                                  static_cast<size_t>(records_[t.record].tensors[t.tensor].shape[0]) * sizeof(float)));
  }

 private:
  WeightView on_card(WeightView w) {
    auto& blocks = views_.emplace_back(w.blocks.begin(), w.blocks.end());
    for (RowBlock& b : blocks) b.data = on_card(b.data, static_cast<size_t>(b.rows * w.cols) * size_of(w.dtype));
    return {w.dtype, w.rows, w.cols, blocks};
  }
  std::byte* on_card(const std::byte* data, size_t bytes) const {
    const auto [found, is_new] = copies_.try_emplace(data, memory_.data() + used_);
    if (is_new) {
      used_ += round_up(bytes, kRound);
      FG_CHECK(used_ <= memory_.size(), "{} bytes of weights", used_);
      card_.run(stream_, [to = found->second, data, bytes] { std::memcpy(to, data, bytes); });
    }
    return found->second;
  }
  static constexpr size_t kRound = 256;

  CheckpointWeights host_;
  const std::vector<RecordSpec> records_;
  FakeDevice& card_;
  const Device::Stream stream_;
  DeviceMemory memory_;  // one piece: the fake card opens and closes each of its pieces for each call
  mutable size_t used_ = 0;
  mutable std::map<const std::byte*, std::byte*> copies_;
  std::deque<std::vector<RowBlock>> views_;
};

enum class Host { keeps_pages, attends_first, attends_too };

struct CardSweep {
  TierShare share;
  Host host = Host::keeps_pages;
  bool overlap = true;
  Shape3 shape{3, 40, 33};
  Lateness lateness = Lateness::late;
  uint32_t seed = 1;
};

// with as much of everything as the plan of the cache says, and no more
std::vector<std::vector<float>> logits_of(const CardSweep& s, const Golden& g, const std::vector<GoldenSequence>& sequences) {
  const ModelDescription& m = g.model();
  const Program program = opt_program(m);
  const auto n_sequences = static_cast<int64_t>(sequences.size()), tokens = n_sequences * s.shape.piece, page = kAttentionBlock;
  KvDemand demand{m.n_layers, {DType::f32, m.n_kv_heads, m.head_dim, page}, n_sequences, longest(sequences), s.shape.max_spans, s.shape.max_tokens,
                  s.share.device, s.overlap, 0};
  demand.host_share = s.share.host;
  demand.attend_on_host = s.host != Host::keeps_pages;
  const KvRequirement r = kv_requirement(demand);
  ThreeTiers tiers({.lateness = s.lateness, .seed = s.seed, .unit = r.frame_bytes, .device = r.frames(), .host = r.host_pages, .disk = r.disk_pages});
  ThreadPool pool(2);

  KvOptions kv = KvOptions::planned(demand, r);
  kv.memory = tiers.memory.memory();
  kv.device = &tiers.card;
  kv.stream = tiers.stream;
  kv.host_memory = tiers.host.bytes();
  kv.io = &tiers.io;
  kv.spill_fd = tiers.file.get();
  KvStore cache(kv);

  DeferredBackend backend(tiers.card, *backends().front());
  const DeviceDemand most{.tokens = tokens,
                          .sequences = s.shape.max_spans,
                          .pages = 2 * s.shape.max_spans * div_up(longest(sequences), page),
                          .widest_rows = std::max({m.vocab, m.ffn, 3 * m.n_heads * m.head_dim}),
                          .widest_cols = std::max(m.width, m.ffn),
                          .n_heads = m.n_heads,
                          .layout = demand.layout};
  const int64_t q_stride = program.width[2];  // of Slot::b, where attention takes q, k and v from
  const DeviceMemory workspace(tiers.card, backend.workspace_bytes(most)), hidden(tiers.card, hidden_bytes(program, tokens)),
      scratch(tiers.card, scratch_bytes(program, tokens)), head(tiers.card, head_bytes(program, tokens)),
      parts(tiers.card, SplitAttention::device_bytes(tokens, m.n_heads, m.head_dim));
  const PinnedBuffer arguments(tiers.card, backend.arguments_bytes(most)),
      logits(tiers.card, static_cast<size_t>(tokens * m.vocab) * sizeof(float)),
      pinned(tiers.card, SplitAttention::pinned_bytes(tokens, m.n_heads, m.head_dim, q_stride));
  const auto queue = backend.make_queue(most, tiers.stream, workspace.memory(), arguments.bytes());

  CardWeights weights(g, tiers.card, tiers.stream);
  SweepOptions o;
  o.hidden.memory = hidden.memory();
  o.scratch = scratch.memory();
  o.head = head.memory();
  o.host_logits = logits.bytes();
  o.host_attention = {backends().front(), &pool, pinned.bytes(), parts.memory(), s.host == Host::attends_first};
  Sweep sweep(m, backend.operations(), {&pool, queue.get()}, weights, cache, o);
  auto out = swept_logits(sweep, cache, m.vocab, sequences, s.shape);
  const KvStatistics k = cache.statistics();
  CHECK((k.full_pages_on_host > 0) == (s.share.host > 0));
  if (s.host == Host::keeps_pages) CHECK((k.bytes_from_host > 0) == (s.share.host > 0));
  CHECK((k.bytes_read > 0) == (s.share.memory() < 1));
  return out;
}

}  // namespace

TEST_CASE("on a card logits have the same bits wherever the cache lies, and where the host attends first", "[runtime]") {
  const Golden g(test_data("golden/head128-bf16-sharded"));
  const std::vector<GoldenSequence> sequences = longer(g);
  ThreadPool pool(2);
  CheckpointWeights weights(g.checkpoint, g.sources);
  KvStore cache(g.model().n_layers, {DType::f32, g.model().n_kv_heads, g.model().head_dim, kAttentionBlock}, 64_MiB);
  Sweep sweep(g.model(), *backends().front(), {&pool, nullptr}, weights, cache);
  const auto want = swept_logits(sweep, cache, g.model().vocab, sequences, {16, 512, 1000});
  const std::vector<CardSweep> settings{{{1, 0}},
                                        {{0.3, 0.4}, Host::keeps_pages, true, {3, 40, 33}, Lateness::random, 2},
                                        {{0, 1}, Host::keeps_pages, false, {2, 5, 20}, Lateness::early, 3},
                                        {{0, 1}, Host::attends_first, true, {3, 40, 33}, Lateness::late, 4},
                                        {{0.4, 0.6}, Host::attends_first, false, {16, 50, 1000}, Lateness::random, 5},
                                        {{0.2, 0.5}, Host::attends_first, true, {3, 9, 13}, Lateness::random, 6},
                                        {{0.2, 0.5}, Host::attends_too, true, {3, 40, 33}, Lateness::late, 7},
                                        {{0, 1}, Host::attends_too, false, {3, 9, 13}, Lateness::random, 8}};
  for (const CardSweep& s : settings) {
    CAPTURE(s.share.device, s.share.host, s.seed);
    const auto got = logits_of(s, g, sequences);
    if (s.host != Host::attends_too) CHECK(same_bits(got, want));
    for (size_t i = 0; i < want.size(); ++i) CHECK(relative_error(got[i], want[i]) < 1e-5);
  }
}
