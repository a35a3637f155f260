// SPDX-License-Identifier: Apache-2.0
// The pages of a KV cache over memory and what lies below: who takes which frame and slot, and what is on its way between them. A page
// that becomes full gets its place (runtime/kv_share.h); one that goes to a slot is written behind, and its frame is free when that is
// done. Pages in slots that are claimed are read into staging frames. What comes from disk is hashed before it is used.
//
// Frames may be a device's memory, which the engine reads and writes in the order of the stream that computes (io/device_io.h). Nothing
// else changes: a ticket that is done means the same.
//
// It knows no sequences beyond their numbers and no order: that is for those who claim (runtime/kv_cursor.h) and append (kv_store.h).
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/runtime/frame_space.h"
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
        space_(options_.device, options_.stream),
        frames_(kv_frame_bytes(options_.layout), options_.frames, options_.memory, options_.device ? 256 : 4096),
        spill_(options_.io, options_.spill_fd, options_.spill_name, options_.disk_pages, options_.host_pages, kv_frame_bytes(options_.layout)),
        share_({options_.memory_share, options_.host_share}, options_.n_layers) {
    FG_CHECK(options_.staging_frames + options_.writing_frames <= options_.frames, "{} and {} of {} frames", options_.staging_frames,
             options_.writing_frames, options_.frames);
    FG_CHECK(!options_.device || !options_.memory.empty(), "no memory of the device for {} frames", options_.frames);
    FG_CHECK(!options_.device || !spills() || options_.io->hashes(), "pages of a device, and nobody to hash them");
    FG_CHECK(!options_.attend_on_host || options_.host_memory.size() >= options_.host_pages * page_bytes(), "{} bytes on the host for {} pages",
             options_.host_memory.size(), options_.host_pages);
    if (spills()) {
      transfers_ = std::make_unique<Transfer[]>(options_.frames);
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

  // Can it be read in its slot on the host? Then that is where, as long as nobody makes it writable or drops it.
  bool on_host(KvPageId id) const { return tier(pages_[id]) == Tier::host && pages_[id].io != KvPage::Io::writing; }
  std::byte* host_data(KvPageId id) const { return options_.host_memory.data() + spill_.index_on_host(pages_[id].slot) * page_bytes(); }
  // ... or will be, when it is written
  bool goes_to_host(KvPageId id) const { return tier(pages_[id]) == Tier::host; }

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
        KvPage& p = pages_[*victim];
        go_to(p, with_room(share_.choose_lower(p.layer(), p.sequence), 1));
        send_out(std::span(&*victim, 1));
        spill_.flush();
      } else {
        return false;
      }
    }
    return true;
  }
  [[noreturn]] void fail_full() const {
    fail(Fault::internal, "all {} pages of the KV cache are in use, {} of them on disk", max_pages(), spill_.used(Tier::disk));
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
    space_.copy(data(copy), data(id), page_bytes());
    return copy;
  }
  // content of a page that is claimed, from host memory that is pinned for a device
  void fill(KvPageId id, std::span<const std::byte> content) { space_.fill(data(id), content); }

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

  // A page that has just become full, and is claimed: it stays, or leaves with write_behind.
  void place(KvPageId id) {
    KvPage& p = pages_[id];
    const Tier t = with_room(share_.choose(p.layer(), p.sequence), 1);
    become_full(p);
    leave_for(id, t);
  }
  // K and V of the same positions, alike. first: the first ones of their lists that are not on the host, perhaps themselves. When it is
  // the host's turn these go, and the new ones take their places, so that a sequence's first pages are on the host.
  void place_pair(const std::array<KvPageId, 2>& pair, const std::array<KvPageId, 2>& first) {
    const KvPage& k = pages_[pair[0]];
    const Tier t = with_room(share_.choose(k.layer(), k.sequence, 2), 2);
    for (size_t i = 0; i < 2; ++i) {
      Tier to = t;
      if (t == Tier::host && first[i] != pair[i] && !goes_to_host(first[i])) {
        to = tier(pages_[first[i]]);
        move_to_host(first[i]);
      }
      become_full(pages_[pair[i]]);
      leave_for(pair[i], to);
    }
  }
  void write_behind() {
    send_out(leaving_);
    leaving_.clear();
    for (const KvPageId id : fetched_) unclaim(id);
    fetched_.clear();
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
      ticket(pages_[id]).wait();
      end_write(id);
    }
    writes_.clear();
  }
  bool writing() const { return !writes_.empty(); }

  // --- in

  // How much it matters that a page comes: only where the disk has not enough to do; where there is a staging frame; in any case
  enum class Urgency : uint8_t { later, soon, now };

  // A page will be used: one on disk takes a staging frame, or a spare one if it must, and its reading is queued. false: nothing is claimed.
  bool claim(KvPageId id, Urgency urgency) {
    KvPage& p = pages_[id];
    if (p.in_slot() && !p.staged) {
      const bool room = staged_ < options_.staging_frames && (p.in_frame() || frames_.left() > 0);
      if (!room && urgency != Urgency::now) return false;
      if (!p.in_frame()) {
        if (urgency == Urgency::later && asked_.size() * page_bytes() >= options_.asked_bytes) return false;
        if (!room && !find_room()) fail_full();
        p.frame = frames_.allocate();
        start_read(p);
        asked_.push_back(id);
      }
      p.staged = true;
      ++staged_;
    }
    ++p.claims;
    return true;
  }
  // Sees which pages have come. What was queued before must have been flushed.
  void poll_reads() {
    const auto coming = [&](const KvPage& p) { return p.io == KvPage::Io::reading && !ticket(p).done(); };
    while (!asked_.empty() && !coming(pages_[asked_.front()])) asked_.pop_front();
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
    wait_for(ids, Tier::host, stats_.wait_copy_s, "copy");
    wait_for(ids, Tier::disk, stats_.wait_disk_s, "disk");
    for (const KvPageId id : ids) end_read(pages_[id]);
    check_pages(ids);
  }

  // Nobody will use what is claimed: everything in flight ends, staging frames are free.
  void forget_claims() noexcept {
    settle();
    for (const KvPageId id : leaving_) {  // the place was chosen, and no more
      go_to(pages_[id], Tier::device);
      if (std::exchange(pages_[id].staged, false)) --staged_;
    }
    leaving_.clear();
    for (KvPageId id = 0; id < pages_.size(); ++id) {
      KvPage& p = pages_[id];
      p.claims = 0;
      if (p.staged) leave_memory(p);
    }
    fetched_.clear();
  }

  KvStatistics statistics() const {
    KvStatistics s = stats_;
    s.disk_bytes = static_cast<uint64_t>(spill_.used(Tier::disk)) * page_bytes();
    s.host_bytes = static_cast<uint64_t>(spill_.used(Tier::host)) * page_bytes();
    s.memory_bytes = static_cast<uint64_t>(used_pages_ - std::min(used_pages_, spill_.used())) * page_bytes();
    s.full_pages = static_cast<uint64_t>(share_.full());
    s.full_pages_in_memory = static_cast<uint64_t>(share_.full(Tier::device));
    s.full_pages_on_host = static_cast<uint64_t>(share_.full(Tier::host));
    return s;
  }
  void note_peak() {
    const KvStatistics now = statistics();
    if (now.memory_bytes + now.host_bytes + now.disk_bytes < stats_.peak_memory_bytes + stats_.peak_host_bytes + stats_.peak_disk_bytes) return;
    stats_.peak_memory_bytes = now.memory_bytes;
    stats_.peak_host_bytes = now.host_bytes;
    stats_.peak_disk_bytes = now.disk_bytes;
  }

 private:
  // What goes on, or went on last, between a frame and a slot
  struct Transfer {
    IoTicket ticket;
    uint64_t hash = 0;  // of the bytes that passed, where it was a slot on disk
  };

  IoTicket& ticket(const KvPage& p) const { return transfers_[p.frame].ticket; }
  Tier tier(const KvPage& p) const { return p.in_slot() ? spill_.tier(p.slot) : Tier::device; }
  bool hashed(const KvPage& p) const { return tier(p) == Tier::disk; }
  // The transfer's hash, unless the engine has put it there
  void hash(const KvPage& p) {
    if (!options_.io->hashes() && hashed(p)) transfers_[p.frame].hash = XXH3_64bits_withSeed(frames_.data(p.frame), page_bytes(), p.seed);
  }
  KvSpill::Moving moving(const KvPage& p) {
    Transfer& t = transfers_[p.frame];
    return {t.ticket, options_.io->hashes() && hashed(p) ? &t.hash : nullptr, p.seed, static_cast<int32_t>(p.layer()), micro_batch_};
  }
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
    if (std::exchange(p.full, false)) share_.count(p.layer(), p.sequence, tier(p), -1);
  }

  // A tier that has n slots, rather the wanted one; the device where none has
  Tier with_room(Tier wanted, size_t n) const {
    if (wanted == Tier::device || spill_.left(wanted) >= n) return wanted;
    const Tier other = wanted == Tier::host ? Tier::disk : Tier::host;
    return spill_.left(other) >= n ? other : Tier::device;
  }
  void become_full(KvPage& p) {
    p.full = true;
    share_.count(p.layer(), p.sequence, Tier::device, 1);
  }
  void leave_for(KvPageId id, Tier t) {
    if (t == Tier::device) return;
    go_to(pages_[id], t);
    leaving_.push_back(id);
  }
  // A page that is not there: from its frame, into which it is fetched where it has none
  void move_to_host(KvPageId id) {
    KvPage& p = pages_[id];
    const bool leaves_anyway = std::find(leaving_.begin(), leaving_.end(), id) != leaving_.end();
    if (!leaves_anyway) wait_until_written(id);
    if (!p.in_frame() || arriving(id)) {
      claim(id, Urgency::now);
      fetched_.push_back(id);
      one_.assign(1, id);
      bring_in(one_);
    }
    go_to(p, Tier::host);
    if (!leaves_anyway) leaving_.push_back(id);
  }
  // A page takes a slot, or gives its slot back: where the share counts it
  void go_to(KvPage& p, Tier to) {
    if (p.full) share_.move(p.layer(), p.sequence, tier(p), to);
    if (p.in_slot()) spill_.release(std::exchange(p.slot, KvSpill::kNone));
    if (to != Tier::device) p.slot = spill_.allocate(to);
  }

  // pages that have got their slots
  void send_out(std::span<const KvPageId> ids) {
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      p.seed = ++writes_made_;
      p.checked = true;
    }
    for_all(ids.size(), [&](size_t i) { hash(pages_[ids[i]]); });
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      p.io = KvPage::Io::writing;
      spill_.write(p.slot, data(id), moving(p));
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
      go_to(p, Tier::device);
      if (std::exchange(p.staged, false)) --staged_;
      return error;
    }
    p.hash = transfers_[p.frame].hash;
    (hashed(p) ? stats_.bytes_written : stats_.bytes_to_host) += page_bytes();
    if (p.claims == 0) leave_memory(p);
    return 0;
  }

  void start_read(KvPage& p) {
    p.io = KvPage::Io::reading;
    p.checked = false;
    spill_.read(p.slot, frames_.data(p.frame), moving(p));
  }

  // those that come from there
  void wait_for(std::span<const KvPageId> ids, Tier from, double& seconds, const char* what) {
    const auto comes = [&](const KvPage& p) { return p.io == KvPage::Io::reading && tier(p) == from; };
    if (std::none_of(ids.begin(), ids.end(), [&](KvPageId id) { return comes(pages_[id]) && !ticket(pages_[id]).done(); })) return;
    const TimedSpan timed(seconds, options_.trace, TraceEvent::Kind::wait, what, layer_, micro_batch_, 0);
    for (const KvPageId id : ids)
      if (comes(pages_[id])) ticket(pages_[id]).wait();
  }

  void end_read(KvPage& p) {
    if (p.io != KvPage::Io::reading) return;
    const int error = ticket(p).wait();
    p.io = KvPage::Io::none;
    if (error != 0) spill_.fail_read(p.slot, error, text(p));
    (hashed(p) ? stats_.bytes_read : stats_.bytes_from_host) += page_bytes();
    if (!hashed(p)) p.checked = true;
  }

  // Compares pages with the hashes of what was written. A page that differs is read once more, elsewhere: what came may have been
  // damaged on its way.
  void check_pages(std::span<const KvPageId> ids) {
    if (!options_.io->hashes()) hash_what_came(ids);
    const auto right = [&](const KvPage& p) { return transfers_[p.frame].hash == p.hash; };
    for (const KvPageId id : ids) {
      KvPage& p = pages_[id];
      if (p.checked) continue;
      p.checked = right(p);
      if (p.checked) continue;
      ++stats_.reread_pages;
      if (frames_.left() > 0) {
        const KvFrames::Frame fresh = frames_.allocate();
        frames_.release(std::exchange(p.frame, fresh));
      }
      start_read(p);
      spill_.flush();
      end_read(p);
      hash(p);
      p.checked = right(p);
      if (!p.checked) spill_.fail_damaged(p.slot, text(p));
    }
  }
  void hash_what_came(std::span<const KvPageId> ids) {
    const TimedSpan timed(stats_.verify_s, options_.trace, TraceEvent::Kind::verify, "kv", layer_, micro_batch_, ids.size() * page_bytes());
    for_all(ids.size(), [&](size_t i) { hash(pages_[ids[i]]); });
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
  FrameSpace space_;
  KvFrames frames_;
  KvSpill spill_;
  KvShare share_;
  KvPages pages_;
  std::unique_ptr<Transfer[]> transfers_;  // of each frame, where there are slots
  size_t used_pages_ = 0;
  size_t staged_ = 0;
  uint64_t writes_made_ = 0;
  std::vector<KvPageId> writes_;           // in flight
  std::vector<KvPageId> leaving_;          // to their slots, with write_behind
  std::vector<KvPageId> fetched_;          // of these, claimed until then
  std::vector<KvPageId> one_;
  std::deque<KvPageId> asked_;             // that had not come at last sight, and some behind them that had
  int32_t layer_ = -1, micro_batch_ = -1;
  KvStatistics stats_;
};

}  // namespace flexgen
