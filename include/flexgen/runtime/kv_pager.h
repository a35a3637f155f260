// SPDX-License-Identifier: Apache-2.0
// The pages of a KV cache over memory and disk: who takes which frame and slot, and what is on its way between them. A page that becomes
// full gets its place (runtime/kv_share.h); one that goes to disk is written behind, and its frame is free when that is done. Pages on
// disk that are claimed are read into staging frames. What comes from disk is hashed before it is used.
//
// It knows no sequences beyond their numbers and no order: that is for those who claim (runtime/kv_cursor.h) and append (kv_store.h).
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/runtime/kv_options.h"
#include "flexgen/runtime/kv_pages.h"
#include "flexgen/runtime/kv_share.h"
#include "flexgen/runtime/kv_statistics.h"

namespace flexgen {

// thread: one at a time
class KvPager {
 public:
  explicit KvPager(KvOptions options)
      : options_(std::move(options)),
        frames_(kv_frame_bytes(options_.layout), options_.frames, options_.memory),
        spill_(options_.io, options_.spill_fd, options_.spill_name, options_.disk_pages, kv_frame_bytes(options_.layout)),
        share_(options_.memory_share, options_.n_layers) {
    FG_CHECK(options_.staging_frames + options_.writing_frames <= options_.frames, "{} and {} of {} frames", options_.staging_frames,
             options_.writing_frames, options_.frames);
    if (spills()) {
      tickets_ = std::make_unique<IoTicket[]>(options_.frames);
    } else {
      options_.staging_frames = options_.writing_frames = 0;
    }
  }
  KvPager(const KvPager&) = delete;
  KvPager& operator=(const KvPager&) = delete;
  ~KvPager() {
    forget_claims();
    spill_.drain();  // an engine may still be touching a ticket that is done
  }

  const KvOptions& options() const { return options_; }
  size_t page_bytes() const { return frames_.frame_bytes(); }  // a multiple of 4 KiB
  bool spills() const { return spill_.max() > 0; }
  size_t max_pages() const { return frames_.max() - options_.staging_frames - options_.writing_frames + spill_.max(); }
  size_t used_pages() const { return used_pages_; }  // with owners
  // those of pages in flight included
  size_t used_frames() const { return frames_.used(); }
  size_t used_slots() const { return spill_.used(); }

  const KvPage& operator[](KvPageId id) const { return pages_[id]; }
  // of a page that is claimed and was brought in, until it is no more claimed
  std::byte* data(KvPageId id) const { return frames_.data(pages_[id].frame); }

  void open(SequenceId id) { share_.open(id); }
  void forget(SequenceId id) { share_.forget(id); }
  // for the trace
  void set_place(int64_t layer, size_t micro_batch) {
    layer_ = static_cast<int32_t>(layer);
    micro_batch_ = static_cast<int32_t>(micro_batch);
  }

  // --- room

  // Sees to it that a page may take a frame: waits for a write, or spills a page that should have stayed. false: neither is possible.
  bool find_room() {
    while (spare_frames() == 0) {
      poll_writes();
      if (spare_frames() > 0) break;
      if (!writes_.empty()) {
        wait_for_write();
      } else if (const auto victim = spill_.left() > 0 ? pages_.next_victim() : std::nullopt) {
        const KvPage& p = pages_[*victim];
        if (p.full) share_.move(p.layer(), p.sequence, false);
        send_out(std::span(&*victim, 1));
        spill_.flush();
      } else {
        return false;
      }
    }
    return true;
  }
  [[noreturn]] void fail_full() const {
    fail(Fault::internal, "all {} pages of the KV cache are in use, {} of them on disk", max_pages(), spill_.used());
  }

  // --- pages. There must be room for those that are made; they are claimed once.

  KvPageId add(SequenceId sequence, size_t list, size_t index) {
    const KvPageId id = pages_.create(sequence, list, index);
    pages_[id].frame = frames_.allocate();
    pages_[id].claims = 1;
    ++used_pages_;
    return id;
  }

  void share(KvPageId id) { ++pages_[id].owners; }
  void disown(KvPageId id) {
    KvPage& p = pages_[id];
    if (--p.owners > 0) return;
    --used_pages_;
    not_full(p);
    if (p.io != KvPage::Io::writing) discard(id);
  }
  // a page with the content of one that is claimed, for another owner
  KvPageId copy(KvPageId id, SequenceId sequence) {
    const KvPageId copy = add(sequence, pages_[id].list, pages_[id].index);
    std::memcpy(data(copy), data(id), page_bytes());
    return copy;
  }

  // A page, which is claimed, will be written to: it is not full, and what a slot has is no more true. Nothing may be writing it; room is
  // needed where it is staged.
  void make_writable(KvPageId id) {
    KvPage& p = pages_[id];
    not_full(p);
    if (!p.in_slot()) return;
    if (std::exchange(p.staged, false)) --staged_;
    spill_.release(std::exchange(p.slot, KvSpill::kNone));
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
      share_.move(p.layer(), p.sequence, false);
      leaving_.push_back(id);
    }
    send_out(leaving_);
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
    if (failure) spill_.fail_write(failure->slot, failure->error, text(pages_[failure->page]));
  }

  void wait_for_write() {
    spill_.flush();
    const TimedSpan timed(stats_.wait_slot_s, options_.trace, TraceEvent::Kind::wait, "slot", layer_, micro_batch_, 0);
    ticket(pages_[writes_.front()]).wait();
    poll_writes();
  }

  void wait_until_written(KvPageId id) {
    while (pages_[id].io == KvPage::Io::writing) wait_for_write();
  }

  // requests that were queued go to the engine
  void flush() { spill_.flush(); }

  // Waits until nothing is in flight. A page whose write failed stays in memory.
  void settle() noexcept {
    spill_.flush();
    for (const KvPageId id : writes_) {
      tickets_[pages_[id].frame].wait();
      end_write(id);
    }
    writes_.clear();
  }
  bool writing() const { return !writes_.empty(); }

  // --- in

  // A page will be used: one on disk takes a staging frame, and its reading is queued. false: there is no such frame, and nothing is
  // claimed. force: a spare frame will do.
  bool claim(KvPageId id, bool force) {
    KvPage& p = pages_[id];
    if (p.in_slot() && !p.staged) {
      const bool room = staged_ < options_.staging_frames && (p.in_frame() || frames_.left() > 0);
      if (!room && !force) return false;
      if (!p.in_frame()) {
        if (!room && !find_room()) fail_full();
        p.frame = frames_.allocate();
        start_read(p);
      }
      p.staged = true;
      ++staged_;
    }
    ++p.claims;
    return true;
  }
  void unclaim(KvPageId id) {
    KvPage& p = pages_[id];
    FG_CHECK(p.claims > 0, "page {}", id);
    if (--p.claims == 0 && p.in_slot() && p.in_frame() && p.io != KvPage::Io::writing) leave_memory(p);
  }

  // whether a claimed page must be waited for, or checked
  bool arriving(KvPageId id) const {
    const KvPage& p = pages_[id];
    return p.io == KvPage::Io::reading || (p.in_slot() && !p.checked);
  }
  // Waits for claimed pages, which may be named several times, and checks them.
  void bring_in(std::vector<KvPageId>& ids) {
    if (ids.empty()) return;
    spill_.flush();
    std::sort(ids.begin(), ids.end());  // shared ones once
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    const auto reading = [&](KvPageId id) { return pages_[id].io == KvPage::Io::reading; };
    if (std::any_of(ids.begin(), ids.end(), [&](KvPageId id) { return reading(id) && !ticket(pages_[id]).done(); })) {
      const TimedSpan timed(stats_.wait_disk_s, options_.trace, TraceEvent::Kind::wait, "disk", layer_, micro_batch_, 0);
      for (const KvPageId id : ids)
        if (reading(id)) ticket(pages_[id]).wait();
    }
    for (const KvPageId id : ids) end_read(pages_[id]);
    check_pages(ids);
  }

  // Nobody will use what is claimed: everything in flight ends, staging frames are free.
  void forget_claims() noexcept {
    settle();
    for (KvPageId id = 0; id < pages_.size(); ++id) {
      KvPage& p = pages_[id];
      p.claims = 0;
      if (p.staged) leave_memory(p);
    }
  }

  KvStatistics statistics() const {
    KvStatistics s = stats_;
    s.disk_bytes = static_cast<uint64_t>(spill_.used()) * page_bytes();
    s.memory_bytes = static_cast<uint64_t>(used_pages_ - std::min(used_pages_, spill_.used())) * page_bytes();
    s.full_pages = static_cast<uint64_t>(share_.full());
    s.full_pages_in_memory = static_cast<uint64_t>(share_.in_memory());
    return s;
  }
  void note_peak() {
    const KvStatistics now = statistics();
    if (now.memory_bytes + now.disk_bytes < stats_.peak_memory_bytes + stats_.peak_disk_bytes) return;
    stats_.peak_memory_bytes = now.memory_bytes;
    stats_.peak_disk_bytes = now.disk_bytes;
  }

 private:
  IoTicket& ticket(const KvPage& p) const { return tickets_[p.frame]; }
  uint64_t hash(const KvPage& p) const { return XXH3_64bits_withSeed(frames_.data(p.frame), page_bytes(), p.seed); }
  std::string text(const KvPage& p) const { return p.text(options_.layout.page_tokens); }

  // frames that pages may take without touching those set aside for staging
  size_t spare_frames() const {
    const size_t set_aside = options_.staging_frames - std::min(options_.staging_frames, staged_);
    return frames_.left() - std::min(frames_.left(), set_aside);
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

  void discard(KvPageId id) {
    KvPage& p = pages_[id];
    if (p.in_frame()) leave_memory(p);
    if (p.in_slot()) spill_.release(std::exchange(p.slot, KvSpill::kNone));
    pages_.destroy(id);
  }
  void not_full(KvPage& p) {
    if (std::exchange(p.full, false)) share_.count(p.layer(), p.sequence, !p.in_slot(), -1);
  }

  // pages that are counted as being on disk, where they are full
  void send_out(std::span<const KvPageId> ids) {
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
      if (p.full) share_.move(p.layer(), p.sequence, true);
      spill_.release(std::exchange(p.slot, KvSpill::kNone));
      if (std::exchange(p.staged, false)) --staged_;
      return error;
    }
    stats_.bytes_written += page_bytes();
    if (p.claims == 0) leave_memory(p);
    return 0;
  }

  void start_read(KvPage& p) {
    p.io = KvPage::Io::reading;
    p.checked = false;
    spill_.read(p.slot, frames_.data(p.frame), ticket(p), static_cast<int32_t>(p.layer()), micro_batch_);
  }

  void end_read(KvPage& p) {
    if (p.io != KvPage::Io::reading) return;
    const int error = ticket(p).wait();
    p.io = KvPage::Io::none;
    if (error != 0) spill_.fail_read(p.slot, error, text(p));
    stats_.bytes_read += page_bytes();
  }

  // Compares pages with the hashes of what was written. A page that differs is read once more, elsewhere: what came may have been
  // damaged on its way.
  void check_pages(std::span<const KvPageId> ids) {
    const TimedSpan timed(stats_.verify_s, options_.trace, TraceEvent::Kind::verify, "kv", layer_, micro_batch_, ids.size() * page_bytes());
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
      if (!p.checked) spill_.fail_damaged(p.slot, text(p));
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

  KvOptions options_;
  KvFrames frames_;
  KvSpill spill_;
  KvShare share_;
  KvPages pages_;
  std::unique_ptr<IoTicket[]> tickets_;    // of each frame, where there is a spill file
  size_t used_pages_ = 0;
  size_t staged_ = 0;
  uint64_t writes_made_ = 0;
  std::vector<KvPageId> writes_;           // in flight
  std::vector<KvPageId> leaving_;
  int32_t layer_ = -1, micro_batch_ = -1;
  KvStatistics stats_;
};

}  // namespace flexgen
