// SPDX-License-Identifier: Apache-2.0
// The KV cache of all sequences, in pages. A page holds K or V of `page_tokens` positions of one sequence in one layer; sequences
// that share a prefix share its full pages. Pages are counted, so a sequence that ends gives back only what nobody else reads.
// Tokens are appended provisionally: a sequence's length grows only when they are committed.
//
// Pages lie in memory or in a spill file. A page that becomes full gets its place (runtime/kv_share.h); one that goes to disk is written
// behind the sweep, and its frame is free when that is done. At its beginning a sweep tells its plan, which with the page tables is the
// order of all pages to come: layer by layer, in it micro-batch by micro-batch, in it sequence by sequence. A cursor runs over this order
// ahead of the sweep and claims pages: those on disk are read into staging frames, as far ahead as there are such frames, always in
// order. So the next page that is needed is never behind one that is not. What comes from disk is hashed before it is used.
//
// Memory is reserved by whoever admits sequences: pages never outgrow max_pages(). Within that a frame can always be had by waiting for a
// write or by spilling a page that should have stayed.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "flexgen/base/xxhash.h"
#include "flexgen/ops/ops.h"
#include "flexgen/runtime/kv_options.h"
#include "flexgen/runtime/kv_pages.h"
#include "flexgen/runtime/kv_share.h"
#include "flexgen/runtime/sweep_plan.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

// The cache of some consecutive spans of a micro-batch in one layer, ready to be read and appended to
struct KvView {
  std::vector<KvSpan> spans;          // in the micro-batch's order, rows counted from its beginning
  std::vector<std::byte*> addresses;  // what the spans' page lists point into
  bool last = true;                   // of the micro-batch
};

// Since the store was made
struct KvStatistics {
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t reread_pages = 0;            // whose first reading was damaged
  double wait_disk_s = 0;               // for pages on their way in
  double wait_slot_s = 0;               // for a frame that a page on its way out still held
  double verify_s = 0;                  // hashing, of pages on their way in
  uint64_t memory_bytes = 0, disk_bytes = 0;            // of pages by place, now; copies that are in use for a while are not counted
  uint64_t peak_memory_bytes = 0, peak_disk_bytes = 0;  // when both together were most
  uint64_t full_pages = 0, full_pages_in_memory = 0;    // now
};

// thread: one at a time
class KvStore {
 public:
  explicit KvStore(KvOptions options)
      : options_(std::move(options)),
        layout_(options_.layout),
        frames_(kv_frame_bytes(layout_), options_.frames, options_.memory),
        spill_(options_.io, options_.spill_fd, options_.spill_name, options_.disk_pages, kv_frame_bytes(layout_)),
        share_(options_.memory_share, options_.n_layers) {
    FG_CHECK(options_.staging_frames + options_.writing_frames <= options_.frames, "{} and {} of {} frames", options_.staging_frames,
             options_.writing_frames, options_.frames);
    if (spill_.max() > 0) {
      tickets_ = std::make_unique<IoTicket[]>(options_.frames);
    } else {
      options_.staging_frames = options_.writing_frames = 0;
    }
  }
  // everything in memory; layout: of a page; budget_bytes: of all pages together
  KvStore(int64_t n_layers, const KvLayout& layout, uint64_t budget_bytes) : KvStore(KvOptions::in_memory(n_layers, layout, budget_bytes)) {}
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;
  ~KvStore() {
    abort_sweep();
    settle();
    spill_.drain();  // an engine may still be touching a ticket that is done
  }

  const KvLayout& layout() const { return layout_; }
  size_t page_bytes() const { return frames_.frame_bytes(); }  // a multiple of 4 KiB
  // pages that fit, in memory and on disk together
  size_t max_pages() const { return frames_.max() - options_.staging_frames - options_.writing_frames + spill_.max(); }
  size_t used_pages() const { return used_pages_; }
  // pages that a sequence of n_tok tokens owns
  size_t pages_for(int64_t n_tok) const { return static_cast<size_t>(2 * options_.n_layers * div_up(n_tok, layout_.page_tokens)); }

  // --- sequences: between sweeps only

  SequenceId create() {
    tables_[next_].pages.resize(static_cast<size_t>(2 * options_.n_layers));
    share_.open(next_);
    return next_++;
  }

  // a sequence with the same committed tokens: full pages are shared, the last one is copied if it is partly filled
  SequenceId fork(SequenceId from) {
    FG_CHECK(!plan_, "a fork within a sweep");
    const SequenceId to = create();
    const Table& source = table(from);
    Table& target = table(to);
    target.length = source.length;
    const auto full = static_cast<size_t>(source.length / layout_.page_tokens);
    try {
      for (size_t list = 0; list < target.pages.size(); ++list) {
        for (size_t i = 0; i < full; ++i) {
          ++pages_[source.pages[list][i]].owners;
          target.pages[list].push_back(source.pages[list][i]);
        }
        if (source.length % layout_.page_tokens != 0) copy_into(target.pages[list], source.pages[list][full], to);
      }
      finish_copies(target, full);
    } catch (...) {
      for (auto& list : target.pages)
        for (const KvPageId id : list) forget_copy(pages_[id]);
      drop(to);
      throw;
    }
    note_peak();
    return to;
  }

  void drop(SequenceId id) {
    truncate(id, 0);
    tables_.erase(id);
    share_.forget(id);
  }

  int64_t length(SequenceId id) const { return table(id).length; }  // committed tokens
  void commit(SequenceId id, int64_t n_tok) { table(id).length += n_tok; }

  // forgets all tokens from position n_tok on, committed or not
  void truncate(SequenceId id, int64_t n_tok) {
    FG_CHECK(!plan_, "a sequence cut within a sweep");
    Table& t = table(id);
    const auto keep = static_cast<size_t>(div_up(n_tok, layout_.page_tokens));
    for (auto& list : t.pages)
      for (; list.size() > keep; list.pop_back()) disown(list.back());
    t.length = std::min(t.length, n_tok);
  }

  // Gives an empty sequence n_tok committed tokens of made-up content, the same for the same seed: finite, small, without a model.
  void fill_synthetic(SequenceId id, int64_t n_tok, uint64_t seed) {
    Table& t = table(id);
    FG_CHECK(!plan_ && t.length == 0 && t.pages[0].empty(), "sequence {} has tokens", id);
    const auto n = static_cast<size_t>(div_up(n_tok, layout_.page_tokens)), full = static_cast<size_t>(n_tok / layout_.page_tokens);
    const std::vector<std::byte> noise = synthetic_noise();
    for (size_t layer = 0; layer < static_cast<size_t>(options_.n_layers); ++layer)
      for (size_t i = 0; i < n; ++i) {
        std::array<KvPageId, 2> pair{};
        for (size_t kind = 0; kind < 2; ++kind) {
          const size_t list = 2 * layer + kind;
          pair[kind] = add_page(t.pages[list], id, list);
          const std::array<uint64_t, 2> place{list, i};
          write_noise(data(pair[kind]), noise, XXH3_64bits_withSeed(place.data(), sizeof place, seed));
        }
        for (const KvPageId p : pair) pages_[p].claims = 0;
        if (i < full) place(pair);
        if (i + 1 == n) spill_.flush();
      }
    t.length = n_tok;
    note_peak();
  }

  // --- one sweep

  // The plan stays where it is until the sweep ends. A sweep that was broken off is forgotten.
  void begin_sweep(const SweepPlan& plan) {
    abort_sweep();
    units_.clear();
    first_unit_.clear();
    std::unordered_map<SequenceId, int64_t> latest;
    for (const MicroBatch& m : plan.micro_batches) {
      first_unit_.push_back(units_.size());
      int64_t row = 0;
      for (const Span& s : m.spans) {
        const auto [at, is_new] = latest.try_emplace(s.sequence, -1);
        units_.push_back({&s, &table(s.sequence), row, at->second});
        at->second = static_cast<int64_t>(units_.size()) - 1;
        row += s.n_tok();
      }
    }
    first_unit_.push_back(units_.size());
    released_ = acquired_ = cursor_ = cursor_page_ = 0;
    plan_ = &plan;
  }

  // The next spans of a micro-batch, at least one, with their pages in this layer up to their ends; missing pages are added. What comes
  // from disk decides how many spans there are: call again, after release, until one was the last. Layers and micro-batches in order.
  // Fault::io, damaged, space: the sweep has failed; break it off.
  const KvView& acquire(int64_t layer, size_t micro_batch) {
    FG_CHECK(plan_ && micro_batch < plan_->micro_batches.size(), "micro-batch {}", micro_batch);
    const size_t base = static_cast<size_t>(layer) * units_.size(), end = base + first_unit_[micro_batch + 1];
    FG_CHECK(released_ == acquired_ && acquired_ >= base + first_unit_[micro_batch] && acquired_ < end, "layer {}, micro-batch {} out of turn", layer,
             micro_batch);
    layer_ = static_cast<int32_t>(layer);
    micro_batch_ = static_cast<int32_t>(micro_batch);
    poll_writes();
    const bool ahead = options_.overlap && spill_.max() > 0;
    const size_t limit = ahead ? static_cast<size_t>(options_.n_layers) * units_.size() : end;
    advance(limit);
    while (cursor_ == acquired_ && !writes_.empty()) {  // staging frames are held by pages that are still being written
      wait_for_write();
      advance(limit);
    }
    if (cursor_ == acquired_) advance(acquired_ + 1, true);
    FG_CHECK(cursor_ > acquired_, "the cache's next pages cannot be brought in");

    // Half of the staging frames at a time, so that the other half fills meanwhile
    const size_t enough = ahead ? std::max<size_t>(1, options_.staging_frames / 2) : options_.frames;
    size_t last = acquired_, staged = 0;
    while (last < std::min(cursor_, end)) {
      size_t more = 0;
      for_each_page(last, [&](KvPageId id) { more += pages_[id].staged; });
      if (last > acquired_ && staged + more > enough) break;
      staged += more;
      ++last;
    }
    bring_in(acquired_, last);
    const size_t first = acquired_;
    acquired_ = last;
    for (size_t i = first; i < last; ++i) prepare_append(i);
    show(first, last);
    view_.last = last == end;
    return view_;
  }

  // The spans acquired last are done with. Pages that they have filled get their place; the next ones are asked for.
  void release() {
    FG_CHECK(plan_ && acquired_ > released_, "nothing is acquired");
    std::vector<KvPageId> filled;
    for (size_t i = released_; i < acquired_; ++i) {
      const Unit& u = unit(i);
      for_each_page(i, [&](KvPageId id) { unclaim(id); });
      const auto from = static_cast<size_t>(u.span->first_position / layout_.page_tokens), to = static_cast<size_t>(u.span->end() / layout_.page_tokens);
      for (size_t p = from; p < to; ++p)
        for (const auto* list : lists(i)) filled.push_back((*list)[p]);
    }
    released_ = acquired_;
    place(filled);
    if (options_.overlap && spill_.max() > 0) advance(static_cast<size_t>(options_.n_layers) * units_.size());
    spill_.flush();
  }

  // All layers are through. Pages may still be on their way to disk.
  void end_sweep() {
    FG_CHECK(plan_ && released_ == static_cast<size_t>(options_.n_layers) * units_.size(), "the sweep is at {} of {} spans", released_,
             static_cast<size_t>(options_.n_layers) * units_.size());
    plan_ = nullptr;
    note_peak();
    poll_writes();
  }

  // The sweep was broken off, wherever it was: everything in flight ends, staging frames are free. What it appended stays until truncated.
  void abort_sweep() noexcept {
    if (!plan_) return;
    plan_ = nullptr;
    settle();
    for (KvPageId id = 0; id < pages_.size(); ++id) {
      KvPage& p = pages_[id];
      p.claims = 0;
      if (p.staged) leave_memory(p);
    }
  }

  // Waits until nothing is in flight. A page whose write failed stays in memory.
  void settle() noexcept {
    spill_.flush();
    for (const KvPageId id : writes_) {
      tickets_[pages_[id].frame].wait();
      end_write(id);
    }
    writes_.clear();
  }

  KvStatistics statistics() const {
    KvStatistics s = stats_;
    s.disk_bytes = static_cast<uint64_t>(spill_.used()) * page_bytes();
    s.memory_bytes = static_cast<uint64_t>(used_pages_ - std::min(used_pages_, spill_.used())) * page_bytes();
    s.full_pages = static_cast<uint64_t>(share_.full());
    s.full_pages_in_memory = static_cast<uint64_t>(share_.in_memory());
    return s;
  }
  // frames and slots that are in use, those of pages in flight included
  size_t used_frames() const { return frames_.used(); }
  size_t used_slots() const { return spill_.used(); }

 private:
  struct Table {
    int64_t length = 0;
    std::vector<std::vector<KvPageId>> pages;  // [2 * layer + (0: K, 1: V)][page]
  };
  // One span of the plan. Unit i of the sweep is span i % units_.size() in layer i / units_.size().
  struct Unit {
    const Span* span;
    Table* table;
    int64_t first_row;  // of its micro-batch
    int64_t previous;   // the span before it that appends to the same sequence; -1: none
  };

  Table& table(SequenceId id) {
    const auto it = tables_.find(id);
    FG_CHECK(it != tables_.end(), "sequence {}", id);
    return it->second;
  }
  const Table& table(SequenceId id) const { return const_cast<KvStore*>(this)->table(id); }

  const Unit& unit(size_t i) const { return units_[i % units_.size()]; }
  std::array<std::vector<KvPageId>*, 2> lists(size_t i) {
    const size_t list = 2 * (i / units_.size());
    return {&unit(i).table->pages[list], &unit(i).table->pages[list + 1]};
  }
  // pages of a unit that there are, in the order they are read
  template <typename Fn>
  void for_each_page(size_t i, Fn&& fn) {
    const auto n = static_cast<size_t>(div_up(unit(i).span->end(), layout_.page_tokens));
    for (auto* list : lists(i))
      for (size_t p = 0; p < std::min(n, list->size()); ++p) fn((*list)[p]);
  }

  std::byte* data(KvPageId id) const { return frames_.data(pages_[id].frame); }
  IoTicket& ticket(const KvPage& p) { return tickets_[p.frame]; }
  uint64_t hash(const KvPage& p) const { return XXH3_64bits_withSeed(frames_.data(p.frame), page_bytes(), p.seed); }

  // --- frames

  // frames that pages may take without touching those set aside for staging
  size_t spare_frames() const {
    const size_t set_aside = options_.staging_frames - std::min(options_.staging_frames, staged_);
    return frames_.left() - std::min(frames_.left(), set_aside);
  }

  // Sees to it that there is a spare frame. rewind: what was read ahead may be given up.
  void make_room(bool rewind = true) {
    while (spare_frames() == 0) {
      poll_writes();
      if (spare_frames() > 0) return;
      if (!writes_.empty()) {
        wait_for_write();
      } else if (const auto victim = find_victim()) {
        send_out(std::span(&*victim, 1));
        spill_.flush();
      } else if (rewind && (cursor_ > acquired_ || cursor_page_ > 0) && plan_) {
        rewind_cursor();
      } else {
        fail(Fault::internal, "all {} pages of the KV cache are in use, {} of them on disk", max_pages(), spill_.used());
      }
    }
  }

  // A page in memory that nobody is about to use; rather a full one than one that is still filled
  std::optional<KvPageId> find_victim() {
    if (spill_.left() == 0) return std::nullopt;
    std::optional<KvPageId> unfilled;
    for (size_t n = 0; n < pages_.size(); ++n) {
      hand_ = hand_ + 1 < pages_.size() ? hand_ + 1 : 0;
      const KvPage& p = pages_[static_cast<KvPageId>(hand_)];
      if (p.owners == 0 || p.claims > 0 || !p.in_frame() || p.in_slot()) continue;
      if (p.full) return static_cast<KvPageId>(hand_);
      if (!unfilled) unfilled = static_cast<KvPageId>(hand_);
    }
    return unfilled;
  }

  // The copy in memory goes; the slot has the page. Whatever is in flight ends first.
  void leave_memory(KvPage& p) {
    if (p.io == KvPage::Io::reading) {
      spill_.flush();
      ticket(p).wait();
    }
    p.io = KvPage::Io::none;
    frames_.release(std::exchange(p.frame, KvFrames::kNone));
    if (std::exchange(p.staged, false)) --staged_;
  }

  // --- pages

  // a page behind the last one of a list, claimed once
  KvPageId add_page(std::vector<KvPageId>& list, SequenceId sequence, size_t list_number) {
    make_room();
    const KvPageId id = pages_.create(sequence, list_number, list.size());
    pages_[id].frame = frames_.allocate();
    pages_[id].claims = 1;
    list.push_back(id);
    ++used_pages_;
    return id;
  }

  void disown(KvPageId id) {
    KvPage& p = pages_[id];
    if (--p.owners > 0) return;
    --used_pages_;
    not_full(p);
    if (p.io != KvPage::Io::writing) discard(id);
  }
  void discard(KvPageId id) {
    KvPage& p = pages_[id];
    if (p.in_frame()) leave_memory(p);
    if (p.in_slot()) spill_.release(std::exchange(p.slot, KvSpill::kNone));
    pages_.destroy(id);
  }
  void not_full(KvPage& p) {
    if (std::exchange(p.full, false)) share_.count(p.layer(), p.sequence, !p.in_slot(), -1);
  }

  // --- out

  // Pages that have just become full: each stays or is written behind.
  void place(std::span<const KvPageId> ids) {
    leaving_.clear();
    size_t slots = spill_.left();
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      const bool stays = slots == 0 || share_.stays(p.layer(), p.sequence);
      p.full = true;
      share_.count(p.layer(), p.sequence, true, 1);
      if (stays) continue;
      --slots;
      share_.count(p.layer(), p.sequence, true, -1);
      share_.count(p.layer(), p.sequence, false, 1);
      leaving_.push_back(id);
    }
    send_out_placed(leaving_);
  }
  // pages that are counted as being in memory
  void send_out(std::span<const KvPageId> ids) {
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      if (!p.full) continue;
      share_.count(p.layer(), p.sequence, true, -1);
      share_.count(p.layer(), p.sequence, false, 1);
    }
    send_out_placed(ids);
  }
  void send_out_placed(std::span<const KvPageId> ids) {
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      p.slot = spill_.allocate();
      p.seed = ++writes_made_;
      p.checked = true;
    }
    for_all(ids.size(), [&](size_t i) {
      KvPage& p = pages_[ids[i]];
      p.hash = hash(p);
    });
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      p.io = KvPage::Io::writing;
      spill_.write(p.slot, data(id), ticket(p), static_cast<int32_t>(p.layer()), micro_batch_);
      writes_.push_back(id);
    }
  }

  // What a write leaves behind, once it has ended; its error
  int end_write(KvPageId id) {
    KvPage& p = pages_[id];
    const int error = ticket(p).error();
    p.io = KvPage::Io::none;
    if (p.owners == 0) {
      discard(id);
      return 0;  // nobody wants it any more
    }
    if (error != 0) {  // it stays where it is
      if (p.full) {
        share_.count(p.layer(), p.sequence, false, -1);
        share_.count(p.layer(), p.sequence, true, 1);
      }
      spill_.release(std::exchange(p.slot, KvSpill::kNone));
      if (std::exchange(p.staged, false)) --staged_;
      return error;
    }
    stats_.bytes_written += page_bytes();
    if (p.claims == 0) leave_memory(p);
    return 0;
  }

  void poll_writes() {
    if (writes_.empty()) return;
    spill_.flush();
    struct Failure {
      KvSpill::Slot slot;
      int error;
      KvPageId page;
    };
    std::optional<Failure> failure;
    size_t kept = 0;
    for (const KvPageId id : writes_) {
      if (!ticket(pages_[id]).done()) {
        writes_[kept++] = id;
        continue;
      }
      const KvSpill::Slot slot = pages_[id].slot;
      if (const int error = end_write(id); error != 0 && !failure) failure = {slot, error, id};
    }
    writes_.resize(kept);
    if (failure) spill_.fail_write(failure->slot, failure->error, pages_[failure->page].text(layout_.page_tokens));
  }

  void wait_for_write() {
    spill_.flush();
    const Timed timed(stats_.wait_slot_s, options_.trace, TraceEvent::Kind::wait, "slot", layer_, micro_batch_, 0);
    ticket(pages_[writes_.front()]).wait();
    poll_writes();
  }

  // --- in

  // Claims the pages of units up to limit, in order, as far as there are staging frames. force: spare frames will do.
  void advance(size_t limit, bool force = false) {
    while (cursor_ < limit) {
      const Unit& u = unit(cursor_);
      // Pages that an earlier span of the same sequence fills in this layer are not known before it is done with.
      if (u.previous >= 0 && cursor_ - cursor_ % units_.size() + static_cast<size_t>(u.previous) >= released_) break;
      const auto n = static_cast<size_t>(div_up(u.span->end(), layout_.page_tokens));
      const auto [k, v] = lists(cursor_);
      const size_t n_k = std::min(n, k->size()), n_v = std::min(n, v->size());
      for (; cursor_page_ < n_k + n_v; ++cursor_page_)
        if (!claim(cursor_page_ < n_k ? (*k)[cursor_page_] : (*v)[cursor_page_ - n_k], force)) return spill_.flush();
      ++cursor_;
      cursor_page_ = 0;
    }
    spill_.flush();
  }

  bool claim(KvPageId id, bool force) {
    KvPage& p = pages_[id];
    if (p.in_slot() && !p.staged) {
      const bool room = staged_ < options_.staging_frames && (p.in_frame() || frames_.left() > 0);
      if (!room && !force) return false;
      if (!p.in_frame()) {
        if (!room) make_room(false);
        p.frame = frames_.allocate();
        start_read(p);
      }
      p.staged = true;
      ++staged_;
    }
    ++p.claims;
    return true;
  }
  void start_read(KvPage& p) {
    p.io = KvPage::Io::reading;
    p.checked = false;
    spill_.read(p.slot, frames_.data(p.frame), ticket(p), static_cast<int32_t>(p.layer()), micro_batch_);
  }

  void unclaim(KvPageId id) {
    KvPage& p = pages_[id];
    FG_CHECK(p.claims > 0, "page {}", id);
    if (--p.claims == 0 && p.in_slot() && p.in_frame() && p.io != KvPage::Io::writing) leave_memory(p);
  }

  // gives up what the cursor has claimed beyond the units that are acquired
  void rewind_cursor() {
    for (size_t i = acquired_; i < cursor_; ++i) for_each_page(i, [&](KvPageId id) { unclaim(id); });
    size_t left = cursor_page_;
    if (left > 0)
      for_each_page(cursor_, [&](KvPageId id) {
        if (left > 0) --left, unclaim(id);
      });
    cursor_ = acquired_;
    cursor_page_ = 0;
  }

  // Waits for the pages of units [first, last), and checks them.
  void bring_in(size_t first, size_t last) {
    arriving_.clear();
    bool waiting = false;
    for (size_t i = first; i < last; ++i)
      for_each_page(i, [&](KvPageId id) {
        KvPage& p = pages_[id];
        if (p.io != KvPage::Io::reading && (!p.in_slot() || p.checked)) return;
        arriving_.push_back(id);
        waiting |= p.io == KvPage::Io::reading && !ticket(p).done();
      });
    if (arriving_.empty()) return;
    std::sort(arriving_.begin(), arriving_.end());  // shared ones once
    arriving_.erase(std::unique(arriving_.begin(), arriving_.end()), arriving_.end());
    if (waiting) {
      const Timed timed(stats_.wait_disk_s, options_.trace, TraceEvent::Kind::wait, "disk", layer_, micro_batch_, 0);
      for (const KvPageId id : arriving_)
        if (pages_[id].io == KvPage::Io::reading) ticket(pages_[id]).wait();
    }
    for (const KvPageId id : arriving_) end_read(pages_[id]);
    check_pages(arriving_);
  }

  void end_read(KvPage& p) {
    if (p.io != KvPage::Io::reading) return;
    const int error = ticket(p).wait();
    p.io = KvPage::Io::none;
    if (error != 0) spill_.fail_read(p.slot, error, p.text(layout_.page_tokens));
    stats_.bytes_read += page_bytes();
  }

  // Compares pages with the hashes of what was written. A page that differs is read once more, elsewhere: what came may have been
  // damaged on its way.
  void check_pages(std::span<const KvPageId> ids) {
    const Timed timed(stats_.verify_s, options_.trace, TraceEvent::Kind::verify, "kv", layer_, micro_batch_, ids.size() * page_bytes());
    for_all(ids.size(), [&](size_t i) {
      KvPage& p = pages_[ids[i]];
      p.checked = hash(p) == p.hash;
    });
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      if (p.checked) continue;
      ++stats_.reread_pages;
      if (frames_.left() > 0) {
        const KvFrames::Frame fresh = frames_.allocate();
        frames_.release(std::exchange(p.frame, fresh));
      }
      start_read(p);
      spill_.flush();
      end_read(p);
      p.checked = hash(p) == p.hash;
      if (!p.checked) spill_.fail_damaged(p.slot, p.text(layout_.page_tokens));
    }
  }

  // --- appending

  // Pages that the unit appends to belong to its sequence alone and have no slot; those that are missing are added.
  void prepare_append(size_t i) {
    const Unit& u = unit(i);
    const auto first = static_cast<size_t>(u.span->first_position / layout_.page_tokens), n = static_cast<size_t>(div_up(u.span->end(), layout_.page_tokens));
    for (size_t kind = 0; kind < 2; ++kind) {
      auto& list = *lists(i)[kind];
      for (size_t p = first; p < std::min(n, list.size()); ++p) own(list[p], u.span->sequence);
      while (list.size() < n) add_page(list, u.span->sequence, 2 * (i / units_.size()) + kind);
    }
  }

  void own(KvPageId& id, SequenceId sequence) {
    while (pages_[id].io == KvPage::Io::writing) wait_for_write();
    if (pages_[id].owners > 1) {
      make_room();
      const KvPageId copy = pages_.create(sequence, pages_[id].list, pages_[id].index);
      pages_[copy].frame = frames_.allocate();
      pages_[copy].claims = 1;
      std::memcpy(data(copy), data(id), page_bytes());
      ++used_pages_;
      --pages_[id].owners;
      unclaim(id);
      id = copy;
      return;
    }
    KvPage* p = &pages_[id];
    not_full(*p);
    if (!p->in_slot()) return;
    if (p->staged) {
      make_room();  // it takes a spare frame and gives a staging frame back
      p = &pages_[id];
      p->staged = false;
      --staged_;
    }
    spill_.release(std::exchange(p->slot, KvSpill::kNone));
  }

  // A page with the content of another, behind the last one of a list. It may be on its way when this returns: finish_copies.
  void copy_into(std::vector<KvPageId>& list, KvPageId from, SequenceId to) {
    ++pages_[from].claims;  // stays where it is
    KvPageId copy = 0;
    try {
      copy = add_page(list, to, pages_[from].list);
    } catch (...) {
      unclaim(from);
      throw;
    }
    const bool here = pages_[from].in_frame();
    if (here) std::memcpy(data(copy), data(from), page_bytes());
    unclaim(from);
    if (here) return;
    KvPage &p = pages_[copy], &source = pages_[from];
    p.seed = source.seed;
    p.hash = source.hash;
    p.io = KvPage::Io::reading;
    copied_from_[copy] = source.slot;
    spill_.read(source.slot, data(copy), ticket(p), static_cast<int32_t>(p.layer()), -1);
  }
  void finish_copies(Table& target, size_t first) {
    spill_.flush();
    for (auto& list : target.pages)
      for (size_t i = first; i < list.size(); ++i) {
        KvPage& p = pages_[list[i]];
        if (p.io == KvPage::Io::reading) {
          const KvSpill::Slot slot = copied_from_.at(list[i]);
          for (int attempt = 0; !p.checked; ++attempt) {
            int error = 0;
            {
              const Timed timed(stats_.wait_disk_s, options_.trace, TraceEvent::Kind::wait, "disk", static_cast<int32_t>(p.layer()), -1, 0);
              error = ticket(p).wait();
            }
            p.io = KvPage::Io::none;
            if (error != 0) spill_.fail_read(slot, error, p.text(layout_.page_tokens));
            stats_.bytes_read += page_bytes();
            p.checked = hash(p) == p.hash;
            if (p.checked) break;
            if (attempt > 0) spill_.fail_damaged(slot, p.text(layout_.page_tokens));
            ++stats_.reread_pages;
            p.io = KvPage::Io::reading;
            spill_.read(slot, frames_.data(p.frame), ticket(p), static_cast<int32_t>(p.layer()), -1);
            spill_.flush();
          }
        }
        p.claims = 0;
      }
    copied_from_.clear();
  }
  void forget_copy(KvPage& p) noexcept {
    spill_.flush();
    if (p.io == KvPage::Io::reading) ticket(p).wait(), p.io = KvPage::Io::none;
    if (p.owners == 1) p.claims = 0;
    copied_from_.clear();
  }

  // --- the rest

  void show(size_t first, size_t last) {
    view_.spans.clear();
    view_.addresses.clear();
    for (size_t i = first; i < last; ++i) {
      for_each_page(i, [&](KvPageId id) { view_.addresses.push_back(data(id)); });
      view_.spans.push_back({unit(i).first_row, unit(i).span->n_tok(), unit(i).span->first_position, nullptr, nullptr});
    }
    std::byte* const* next = view_.addresses.data();  // they stand still now
    for (size_t i = first; i < last; ++i) {
      const int64_t n = div_up(unit(i).span->end(), layout_.page_tokens);
      view_.spans[i - first].k_pages = next;
      view_.spans[i - first].v_pages = next + n;
      next += 2 * n;
    }
  }

  template <typename Fn>
  void for_all(size_t n, Fn&& fn) {
    if (options_.pool && n > 1) {
      options_.pool->parallel_for(static_cast<int64_t>(n), [&](int64_t i, int) { fn(static_cast<size_t>(i)); });
    } else {
      for (size_t i = 0; i < n; ++i) fn(i);
    }
  }

  void note_peak() {
    const KvStatistics now = statistics();
    if (now.memory_bytes + now.disk_bytes < stats_.peak_memory_bytes + stats_.peak_disk_bytes) return;
    stats_.peak_memory_bytes = now.memory_bytes;
    stats_.peak_disk_bytes = now.disk_bytes;
  }

  // numbers in [-1/4, 1/4) in the cache's format, more than a page of them
  std::vector<std::byte> synthetic_noise() const {
    constexpr size_t kSpare = 4096;  // where a page can begin
    const size_t n = page_bytes() / size_of(layout_.dtype) + kSpare;
    std::vector<std::byte> noise(n * size_of(layout_.dtype));
    for (size_t i = 0; i < n; ++i) {
      const uint64_t r = XXH3_64bits(&i, sizeof i);
      store_element(layout_.dtype, noise.data(), i, static_cast<float>(r >> 40) * 0x1p-25f - 0.25f);
    }
    return noise;
  }
  void write_noise(std::byte* to, const std::vector<std::byte>& noise, uint64_t random) const {
    const size_t places = (noise.size() - page_bytes()) / size_of(layout_.dtype);
    std::memcpy(to, noise.data() + random % places * size_of(layout_.dtype), page_bytes());
  }

  // adds the time until its end to seconds, and to the trace
  struct Timed {
    Timed(double& s, Trace* trace, TraceEvent::Kind kind, const char* what, int32_t layer, int32_t micro_batch, uint64_t bytes)
        : seconds(s), span(trace, kind, what, layer, micro_batch, bytes) {}
    ~Timed() { seconds += static_cast<double>(monotonic_ns() - start) * 1e-9; }
    double& seconds;
    int64_t start = monotonic_ns();
    TraceSpan span;
  };

  KvOptions options_;
  KvLayout layout_;
  KvFrames frames_;
  KvSpill spill_;
  KvShare share_;
  KvPages pages_;
  std::unique_ptr<IoTicket[]> tickets_;    // of each frame, where there is a spill file
  SequenceId next_ = 1;
  std::unordered_map<SequenceId, Table> tables_;
  size_t used_pages_ = 0;                  // with owners
  size_t staged_ = 0;
  size_t hand_ = 0;                        // of the search for victims
  uint64_t writes_made_ = 0;
  std::vector<KvPageId> writes_;           // in flight
  std::unordered_map<KvPageId, KvSpill::Slot> copied_from_;
  KvStatistics stats_;

  // of the sweep
  const SweepPlan* plan_ = nullptr;
  std::vector<Unit> units_;
  std::vector<size_t> first_unit_;         // of each micro-batch, and the end
  size_t released_ = 0, acquired_ = 0;     // units [released_, acquired_) are in use
  size_t cursor_ = 0, cursor_page_ = 0;    // units before it are claimed, and that many pages of it
  int32_t layer_ = -1, micro_batch_ = -1;  // for the trace
  std::vector<KvPageId> arriving_, leaving_;
  KvView view_;
};

}  // namespace flexgen
