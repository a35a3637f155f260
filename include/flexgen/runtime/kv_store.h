// SPDX-License-Identifier: Apache-2.0
// The KV cache of all sequences, in pages. A page holds K or V of `page_tokens` positions of one sequence in one layer; sequences
// that share a prefix share its full pages. Pages are counted, so a sequence that ends gives back only what nobody else reads.
// Tokens are appended provisionally: a sequence's length grows only when they are committed.
//
// Pages lie in memory, a device's where there is one, or in slots below it (runtime/kv_pager.h). At its beginning a sweep tells its plan,
// and pages stream in ahead of it in that order (runtime/kv_cursor.h).
//
// Memory is reserved by whoever admits sequences: pages never outgrow max_pages(). Within that a frame can always be had by waiting for a
// write, by spilling a page that should have stayed, or by giving up what was read ahead.
#pragma once

#include <algorithm>
#include <array>
#include <unordered_map>
#include <vector>

#include "flexgen/ops/ops.h"
#include "flexgen/runtime/kv_cursor.h"
#include "flexgen/runtime/kv_noise.h"
#include "flexgen/runtime/kv_pager.h"

namespace flexgen {

// The cache of some consecutive spans of a micro-batch in one layer, ready to be read and appended to
struct KvView {
  std::vector<KvSpan> spans;          // in the micro-batch's order, rows counted from its beginning
  std::vector<std::byte*> addresses;  // what the spans' page lists point into
  bool last = true;                   // of the micro-batch
  // Where positions are to be attended on the host (KvOptions::attend_on_host): the same spans with those pages, and the positions, from
  // 0 on; and the positions of `spans` behind them. Either's lists have null for the other's pages. Empty: there are none.
  std::vector<KvSpan> host_spans;
  std::vector<PositionRange> host_ranges, ranges;
};

// thread: one at a time
class KvStore {
 public:
  explicit KvStore(KvOptions options) : layout_(options.layout), pager_(std::move(options)) {}
  // everything in memory; layout: of a page; budget_bytes: of all pages together
  KvStore(int64_t n_layers, const KvLayout& layout, uint64_t budget_bytes) : KvStore(KvOptions::in_memory(n_layers, layout, budget_bytes)) {}
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  const KvLayout& layout() const { return layout_; }
  size_t page_bytes() const { return pager_.page_bytes(); }  // a multiple of 4 KiB
  // pages that fit, in memory and below together
  size_t max_pages() const { return pager_.max_pages(); }
  size_t used_pages() const { return pager_.used_pages(); }
  // pages that a sequence of n_tok tokens owns
  size_t pages_for(int64_t n_tok) const { return n_lists() * n_pages(n_tok); }

  // --- sequences: between sweeps only

  SequenceId create() {
    tables_[next_].pages.resize(n_lists());
    pager_.open(next_);
    return next_++;
  }

  // a sequence with the same committed tokens: full pages are shared, the last one is copied if it is partly filled
  SequenceId fork(SequenceId from) {
    FG_CHECK(!cursor_.running(), "a fork within a sweep");
    cursor_.stop_reading_on();
    const SequenceId to = create();
    const KvTable& source = table(from);
    KvTable& target = table(to);
    target.length = source.length;
    const auto full = static_cast<size_t>(source.length / layout_.page_tokens);
    for (size_t list = 0; list < n_lists(); ++list)
      for (size_t i = 0; i < full; ++i) {
        pager_.share(source.pages[list][i]);
        target.pages[list].push_back(source.pages[list][i]);
      }
    try {
      if (source.length % layout_.page_tokens != 0) copy_last_pages(source, full, to);
    } catch (...) {
      pager_.forget_claims();
      drop(to);
      throw;
    }
    pager_.note_peak();
    return to;
  }

  void drop(SequenceId id) {
    truncate(id, 0);
    tables_.erase(id);
    pager_.forget(id);
  }

  int64_t length(SequenceId id) const { return table(id).length; }  // committed tokens
  void commit(SequenceId id, int64_t n_tok) { table(id).length += n_tok; }

  // forgets all tokens from position n_tok on, committed or not
  void truncate(SequenceId id, int64_t n_tok) {
    FG_CHECK(!cursor_.running(), "a sequence cut within a sweep");
    KvTable& t = table(id);
    const size_t keep = n_pages(n_tok);
    for (auto& list : t.pages)
      for (; list.size() > keep; list.pop_back()) {
        cursor_.forget(list.back());
        pager_.disown(list.back());
      }
    t.length = std::min(t.length, n_tok);
  }

  // Gives an empty sequence n_tok committed tokens of made-up content, the same for the same seed: finite, small, without a model.
  void fill_synthetic(SequenceId id, int64_t n_tok, uint64_t seed) {
    KvTable& t = table(id);
    FG_CHECK(!cursor_.running() && t.length == 0 && t.pages[0].empty(), "sequence {} has tokens", id);
    const size_t n = n_pages(n_tok), full = static_cast<size_t>(n_tok / layout_.page_tokens);
    const KvNoise noise(layout_.dtype, page_bytes(), pager_.options().device);
    for (size_t first = 0; first < n_lists(); first += 2)
      for (size_t i = 0; i < n; ++i) {
        std::array<KvPageId, 2> pair{};
        for (size_t kind = 0; kind < 2; ++kind) {
          const size_t list = first + kind;
          pair[kind] = add_page(t.pages[list], id, list);
          const std::array<uint64_t, 2> place{list, i};
          pager_.fill(pair[kind], noise.page(XXH3_64bits_withSeed(place.data(), sizeof place, seed)));
        }
        if (i < full) place(t.pages[first], t.pages[first + 1], i);
        pager_.write_behind();
        for (const KvPageId p : pair) pager_.unclaim(p);
        if (i + 1 == n) pager_.flush();
      }
    t.length = n_tok;
    pager_.note_peak();
  }

  // --- one sweep

  // The plan stays where it is until the sweep ends. A sweep that was broken off is forgotten.
  void begin_sweep(const SweepPlan& plan) {
    abort_sweep();
    cursor_.begin(plan, [this](SequenceId id) -> KvTable& { return table(id); });
    n_micro_batches_ = plan.micro_batches.size();
    advance();                   // takes over what the sweep before has read on for
    cursor_.give_up_next();
  }

  // Called now and then while something else is computed, also after the end of a sweep as long as its sequences are as they were: so
  // that reading ahead does not stop.
  void advance() {
    if (!ahead()) return;
    if (cursor_.running()) cursor_.advance(cursor_.n_units(), KvPager::Urgency::later);
    if (!cursor_.running() || cursor_.claimed() == cursor_.n_units()) cursor_.read_on();
  }

  // The next spans of a micro-batch, at least one, with their pages in this layer up to their ends; missing pages are added. What comes
  // from disk decides how many spans there are: call again, after release, until one was the last. Layers and micro-batches in order.
  // Fault::io, damaged, space: the sweep has failed; break it off.
  const KvView& acquire(int64_t layer, size_t micro_batch) {
    FG_CHECK(cursor_.running() && micro_batch < n_micro_batches_, "micro-batch {}", micro_batch);
    const size_t begin = cursor_.first_unit(layer, micro_batch), end = cursor_.first_unit(layer, micro_batch + 1), first = cursor_.acquired();
    FG_CHECK(cursor_.released() == first && first >= begin && first < end, "layer {}, micro-batch {} out of turn", layer, micro_batch);
    pager_.set_place(layer, micro_batch);
    pager_.poll_writes();
    cursor_.advance(ahead() ? first + 1 : end, KvPager::Urgency::soon);
    while (cursor_.claimed() == first && pager_.writing()) {  // staging frames are held by pages that are still being written
      pager_.wait_for_write();
      cursor_.advance(first + 1, KvPager::Urgency::soon);
    }
    if (cursor_.claimed() == first) cursor_.advance(first + 1, KvPager::Urgency::now);
    FG_CHECK(cursor_.claimed() > first, "the cache's next pages cannot be brought in");
    advance();

    const size_t last = cursor_.next_end(end, at_once());
    arriving_.clear();
    for (size_t i = first; i < last; ++i)
      cursor_.for_each_page(i, [&](KvPageId id) {
        if (pager_.arriving(id)) arriving_.push_back(id);
      });
    pager_.bring_in(arriving_);
    cursor_.set_acquired(last);
    for (size_t i = first; i < last; ++i) prepare_append(i);
    show(first, last);
    view_.last = last == end;
    return view_;
  }

  // The spans acquired last are done with. Pages that they have filled get their place; the next ones are asked for.
  void release() {
    const size_t first = cursor_.released(), last = cursor_.acquired();
    FG_CHECK(cursor_.running() && last > first, "nothing is acquired");
    for (size_t i = first; i < last; ++i) {
      const Span& span = *cursor_.unit(i).span;
      const auto from = static_cast<size_t>(span.first_position / layout_.page_tokens), to = static_cast<size_t>(span.end() / layout_.page_tokens);
      const auto [k, v] = cursor_.lists(i);
      for (size_t p = from; p < to; ++p) place(*k, *v, p);
    }
    pager_.write_behind();
    cursor_.release();
    advance();
    pager_.flush();
  }

  // All layers are through. Pages may still be on their way to disk.
  void end_sweep() {
    FG_CHECK(cursor_.running() && cursor_.released() == cursor_.n_units(), "the sweep is at {} of {} spans", cursor_.released(), cursor_.n_units());
    cursor_.end();
    advance();
    pager_.note_peak();
    pager_.poll_writes();
  }

  // The sweep was broken off, wherever it was: everything in flight ends, staging frames are free. What it appended stays until truncated.
  void abort_sweep() noexcept {
    if (!cursor_.running()) return;
    cursor_.abandon();
    pager_.forget_claims();
  }

  // Waits until nothing is in flight, and keeps nothing for a next sweep. A page whose write failed stays in memory.
  void settle() noexcept {
    cursor_.stop_reading_on();
    pager_.settle();
  }

  KvStatistics statistics() const { return pager_.statistics(); }
  // frames and slots that are in use, those of pages in flight included
  size_t used_frames() const { return pager_.used_frames(); }
  size_t used_slots() const { return pager_.used_slots(); }

 private:
  KvTable& table(SequenceId id) {
    const auto it = tables_.find(id);
    FG_CHECK(it != tables_.end(), "sequence {}", id);
    return it->second;
  }
  const KvTable& table(SequenceId id) const { return const_cast<KvStore*>(this)->table(id); }

  size_t n_lists() const { return static_cast<size_t>(2 * pager_.options().n_layers); }
  size_t n_pages(int64_t n_tok) const { return static_cast<size_t>(div_up(n_tok, layout_.page_tokens)); }
  bool ahead() const { return pager_.options().overlap && pager_.spills(); }
  // Pages in staging frames that are acquired together: with overlap half of those that are on their way, or of the frames, so that the
  // other half comes meanwhile; what came last is in the CPU's cache
  size_t at_once() const {
    const KvOptions& o = pager_.options();
    if (!ahead()) return o.frames;
    return std::max<size_t>(1, std::min<size_t>(o.staging_frames, static_cast<size_t>(o.asked_bytes) / page_bytes()) / 2);
  }

  void make_room() {
    while (!pager_.find_room())
      if (!cursor_.rewind()) pager_.fail_full();
  }

  // a page behind the last one of a list, claimed once
  KvPageId add_page(std::vector<KvPageId>& list, SequenceId sequence, size_t list_number) {
    make_room();
    list.push_back(pager_.add(sequence, list_number, list.size()));
    return list.back();
  }

  // Page p of K and V in a layer is full.
  void place(const std::vector<KvPageId>& k, const std::vector<KvPageId>& v, size_t p) {
    if (pager_.options().attend_on_host) {
      size_t first = 0;
      while (first < p && pager_.goes_to_host(k[first]) && pager_.goes_to_host(v[first])) ++first;
      pager_.place_pair({k[p], v[p]}, {k[first], v[first]});
    } else {
      pager_.place(k[p]);
      pager_.place(v[p]);
    }
  }

  // Page i of each list of a sequence, behind the last one of another's; what lies on disk comes as for a sweep.
  void copy_last_pages(const KvTable& source, size_t i, SequenceId to) {
    for (size_t list = 0, end = 0; list < n_lists();) {
      arriving_.clear();
      for (; end < n_lists() && pager_.claim(source.pages[end][i], end == list ? KvPager::Urgency::now : KvPager::Urgency::soon); ++end)
        if (pager_.arriving(source.pages[end][i])) arriving_.push_back(source.pages[end][i]);
      pager_.bring_in(arriving_);
      for (; list < end; ++list) {
        make_room();
        const KvPageId copy = table(to).pages[list].emplace_back(pager_.copy(source.pages[list][i], to));
        pager_.unclaim(copy);
        pager_.unclaim(source.pages[list][i]);
      }
    }
  }

  // Pages that the unit appends to belong to its sequence alone and have no slot; those that are missing are added.
  void prepare_append(size_t i) {
    const Span& span = *cursor_.unit(i).span;
    const auto first = static_cast<size_t>(span.first_position / layout_.page_tokens);
    const size_t n = n_pages(span.end());
    for (size_t kind = 0; kind < 2; ++kind) {
      auto& list = *cursor_.lists(i)[kind];
      for (size_t p = first; p < std::min(n, list.size()); ++p) own(list[p], span.sequence);
      while (list.size() < n) add_page(list, span.sequence, cursor_.first_list(i) + kind);
    }
  }

  void own(KvPageId& id, SequenceId sequence) {
    pager_.wait_until_written(id);
    if (pager_[id].owners > 1 || pager_[id].staged) make_room();  // one that is staged takes a spare frame and gives a staging frame back
    if (pager_[id].owners > 1) {
      const KvPageId shared = std::exchange(id, pager_.copy(id, sequence));
      pager_.unclaim(shared);
      pager_.disown(shared);
    } else {
      pager_.make_writable(id);
    }
  }

  void show(size_t first, size_t last) {
    view_.spans.clear();
    view_.addresses.clear();
    view_.host_spans.clear();
    view_.host_ranges.clear();
    view_.ranges.clear();
    bool any_on_host = false;
    size_t n = 0;
    for (size_t i = first; i < last; ++i) {
      any_on_host |= cursor_.on_host(i) > 0;
      n += 2 * n_pages(cursor_.unit(i).span->end());
    }
    view_.addresses.resize(any_on_host ? 2 * n : n, nullptr);
    std::byte** next = view_.addresses.data();  // they stand still now
    const auto add = [&](std::vector<KvSpan>& spans, size_t i, size_t from, size_t to, auto&& address) {
      const KvCursor::Unit& u = cursor_.unit(i);
      std::array<std::byte**, 2> pages{};
      for (size_t kind = 0; kind < 2; ++kind, next += n_pages(u.span->end())) {
        pages[kind] = next;
        for (size_t p = from; p < to; ++p) next[p] = address((*cursor_.lists(i)[kind])[p]);
      }
      spans.push_back({u.first_row, u.span->n_tok(), u.span->first_position, pages[0], pages[1]});
    };
    for (size_t i = first; i < last; ++i)
      add(view_.spans, i, cursor_.on_host(i), n_pages(cursor_.unit(i).span->end()), [&](KvPageId id) { return pager_.data(id); });
    if (!any_on_host) return;
    for (size_t i = first; i < last; ++i) {
      add(view_.host_spans, i, 0, cursor_.on_host(i), [&](KvPageId id) { return pager_.host_data(id); });
      const int64_t behind = static_cast<int64_t>(cursor_.on_host(i)) * layout_.page_tokens;
      view_.host_ranges.push_back({0, behind});
      view_.ranges.push_back({behind, cursor_.unit(i).span->end()});
    }
  }

  const KvLayout layout_;
  std::unordered_map<SequenceId, KvTable> tables_;
  SequenceId next_ = 1;
  KvPager pager_;
  KvCursor cursor_{pager_};
  size_t n_micro_batches_ = 0;
  std::vector<KvPageId> arriving_;
  KvView view_;
};

}  // namespace flexgen
