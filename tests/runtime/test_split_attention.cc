// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/split_attention.h"

#include <cmath>
#include <cstring>
#include <deque>

#include "kernels/registry.h"
#include "support/deferred_backend.h"
#include "support/errors.h"
#include "support/kv_device.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

constexpr int64_t kHeads = 4, kPadding = 24;

struct SplitSequence {
  int64_t n_tok, length, on_host;  // tokens, positions with them, first pages on the host
};

// Sequences whose tokens follow those of another micro-batch's span, some of whose pages are on the host; and the card that attends to them
class SplitBatch {
 public:
  SplitBatch(const std::vector<SplitSequence>& sequences, Lateness lateness, uint32_t seed)
      : sequences_(sequences), random_(seed), card_({.lateness = lateness, .seed = seed}), stream_(card_), backend_(card_, *backends().front()) {
    for (const SplitSequence& s : sequences_) n_tok_ += s.n_tok, pages_ += 2 * div_up(s.length, kAttentionBlock);
    q_.resize(static_cast<size_t>(n_tok_ * q_stride()));
    for (float& f : q_) f = random_.value();
    memory_ = DeviceMemory(card_, static_cast<size_t>(pages_) * layout_.page_bytes() + 2 * q_.size() * sizeof(float));
    q_at_ = reinterpret_cast<float*>(memory_.data());
    y_at_ = q_at_ + q_.size();
    next_page_ = reinterpret_cast<std::byte*>(y_at_ + q_.size());
    run([this] { std::memcpy(q_at_, q_.data(), q_.size() * sizeof(float)); });

    int64_t row = kBefore;
    for (const SplitSequence& s : sequences_) {
      const int64_t first = s.length - s.n_tok;
      PagedCache& cache = caches_.emplace_back(layout_, s.length);
      const int64_t kv_width = layout_.n_heads * layout_.head_dim;
      GuardedMatrix k = GuardedMatrix::input(s.length, kv_width, random_), v = GuardedMatrix::input(s.length, kv_width, random_);
      const KvSpan all[] = {cache.span(0, s.length, 0)};
      kv_append(*backends().front(), {k.view(), v.view(), layout_, all}, {&pool_});
      const KvSpan whole = cache.span(row - kBefore, s.n_tok, first);
      whole_.push_back(whole);
      view_.spans.push_back({row, s.n_tok, first, on_card(whole.k_pages, s), on_card(whole.v_pages, s)});
      view_.host_spans.push_back({row, s.n_tok, first, whole.k_pages, whole.v_pages});
      view_.host_ranges.push_back({0, s.on_host * kAttentionBlock});
      view_.ranges.push_back({s.on_host * kAttentionBlock, s.length});
      row += s.n_tok;
    }
  }

  // what one host does with all of it
  std::vector<float> want() {
    std::vector<float> y(static_cast<size_t>(n_tok_ * width()));
    attention(*backends().front(), {{q_.data(), n_tok_, width(), q_stride()}, {y.data(), n_tok_, width(), width()}, kHeads, kScale, layout_, whole_},
              {&pool_});
    return y;
  }

  // twice, since the memory between is used again
  std::vector<float> got(bool in_order, size_t less_memory = 0) {
    const DeviceDemand demand{.tokens = n_tok_ + kBefore, .sequences = 16, .pages = pages_, .widest_rows = 1, .widest_cols = 1, .n_heads = kHeads,
                              .layout = layout_};
    const DeviceMemory workspace(card_, backend_.workspace_bytes(demand)),
        parts(card_, SplitAttention::device_bytes(n_tok_, kHeads, layout_.head_dim) - less_memory);
    const PinnedBuffer arguments(card_, backend_.arguments_bytes(demand)),
        pinned(card_, SplitAttention::pinned_bytes(n_tok_, kHeads, layout_.head_dim, q_stride()));
    const auto queue = backend_.make_queue(demand, stream_, workspace.memory(), arguments.bytes());
    SplitAttention split({backends().front(), &pool_, pinned.bytes(), parts.memory(), in_order});
    // rows of the micro-batch begin before the first span's
    const AttentionArgs a{{q_at_ - kBefore * q_stride(), n_tok_ + kBefore, width(), q_stride()},
                          {y_at_ - kBefore * q_stride(), n_tok_ + kBefore, width(), q_stride()}, kHeads, kScale, layout_, view_.spans};
    std::vector<float> y(q_.size());
    for (int i = 0; i < 2; ++i) {
      run([this] { std::memset(static_cast<void*>(y_at_), 0xFF, q_.size() * sizeof(float)); });
      split(backend_.operations(), {.device = queue.get()}, a, view_);
      run([this, &y] { std::memcpy(y.data(), y_at_, q_.size() * sizeof(float)); });
    }
    card_.synchronize_stream(stream_);
    std::vector<float> dense;
    for (int64_t t = 0; t < n_tok_; ++t) dense.insert(dense.end(), y.begin() + t * q_stride(), y.begin() + t * q_stride() + width());
    return dense;
  }

 private:
  static constexpr int64_t kBefore = 3;
  static constexpr float kScale = 0.3f;

  int64_t width() const { return kHeads * layout_.head_dim; }
  int64_t q_stride() const { return width() + kPadding; }
  void run(std::function<void()> work) { card_.run(stream_, std::move(work)); }

  // the card's copy of pages that are not on the host
  std::byte* const* on_card(std::byte* const* pages, const SplitSequence& s) {
    auto& list = lists_.emplace_back();
    for (int64_t p = 0; p < div_up(s.length, kAttentionBlock); ++p) {
      if (p < s.on_host) {
        list.push_back(nullptr);
        continue;
      }
      run([to = next_page_, from = pages[p], bytes = layout_.page_bytes()] { std::memcpy(to, from, bytes); });
      list.push_back(std::exchange(next_page_, next_page_ + layout_.page_bytes()));
    }
    return list.data();
  }

  const KvLayout layout_{DType::f16, 2, 16, kAttentionBlock};
  const std::vector<SplitSequence> sequences_;
  Random random_;
  ThreadPool pool_{2};
  FakeDevice card_;
  const DeviceStream stream_;
  DeferredBackend backend_;
  DeviceMemory memory_;
  int64_t n_tok_ = 0, pages_ = 0;
  std::vector<float> q_;
  float *q_at_ = nullptr, *y_at_ = nullptr;
  std::byte* next_page_ = nullptr;
  std::deque<PagedCache> caches_;
  std::deque<std::vector<std::byte*>> lists_;
  std::vector<KvSpan> whole_;
  KvView view_;
};

const std::vector<std::vector<SplitSequence>> kBatches{
    {{1, 200, 3}}, {{1, 33, 1}, {1, 200, 0}, {1, 64, 1}}, {{70, 70, 0}, {5, 100, 2}, {1, 1, 0}, {1, 161, 5}}, {{40, 300, 8}, {2, 66, 2}}};

}  // namespace

TEST_CASE("the host first, then the card: the bits of attention over all positions", "[runtime]") {
  for (size_t i = 0; i < kBatches.size(); ++i)
    for (const auto& [lateness, seed] : {std::pair{Lateness::late, 1u}, {Lateness::early, 2u}, {Lateness::random, 3u}}) {
      CAPTURE(i, seed);
      SplitBatch batch(kBatches[i], lateness, seed);
      const auto got = batch.got(true), want = batch.want();
      CHECK(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0);
    }
}

TEST_CASE("host and card at once: the same to rounding", "[runtime]") {
  for (size_t i = 0; i < kBatches.size(); ++i)
    for (const auto& [lateness, seed] : {std::pair{Lateness::late, 1u}, {Lateness::early, 2u}, {Lateness::random, 3u}}) {
      CAPTURE(i, seed);
      SplitBatch batch(kBatches[i], lateness, seed);
      const auto got = batch.got(false), want = batch.want();
      REQUIRE(got.size() == want.size());
      double worst = 0, largest = 0;
      for (size_t j = 0; j < want.size(); ++j) {
        const double distance = std::abs(static_cast<double>(got[j]) - static_cast<double>(want[j]));
        if (!(distance <= worst)) worst = distance;
        largest = std::max(largest, std::abs(static_cast<double>(want[j])));
      }
      CHECK(worst <= 1e-6 * largest);
    }
}

TEST_CASE("memory for the parts is asked for, not found out about", "[runtime]") {
  SplitBatch batch(kBatches[0], Lateness::late, 1);
  CHECK_FAULT(batch.got(true, 256), Fault::internal, "bytes for 1 tokens");
  SplitAttention nobody({});
  CHECK_FAULT(nobody(*backends().front(), {}, {}, {}), Fault::internal, "pages on the host, and nobody to attend to them");
}
