// SPDX-License-Identifier: Apache-2.0
// The order in which a sweep goes through the cache, and how far it has come. The plan and the page tables tell the order of all pages
// to come: layer by layer, in it micro-batch by micro-batch, in it sequence by sequence. The cursor runs over this order ahead of the
// sweep and claims pages: those on disk are read into staging frames, as far ahead as there are such frames, always in order. So the
// next page that is needed is never behind one that is not. A unit's first pages that are attended on the host are not claimed.
//
// The next sweep will most likely begin with the same sequences. So once all of a sweep is claimed the cursor reads on from its beginning;
// what the next plan then does not ask for is given up.
//
//   released <= acquired <= claimed: units before these are done with, in use, claimed
#pragma once

#include <algorithm>
#include <array>
#include <unordered_map>
#include <vector>

#include "flexgen/runtime/kv_pager.h"
#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// The pages of a sequence
struct KvTable {
  int64_t length = 0;                        // committed tokens
  std::vector<std::vector<KvPageId>> pages;  // [2 * layer + (0: K, 1: V)][page]
};

// thread: one at a time
class KvCursor {
 public:
  // One span of the plan. Unit i of the sweep is span i % n of the plan's n spans, in layer i / n.
  struct Unit {
    const Span* span;
    KvTable* table;
    int64_t first_row;  // of its micro-batch
    int64_t previous;   // the span before it that appends to the same sequence; -1: none
  };

  explicit KvCursor(KvPager& pager) : pager_(pager) {}

  // plan and tables stay where they are until the sweep ends. table: of a sequence
  template <typename TableOf>
  void begin(const SweepPlan& plan, TableOf&& table) {
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
    on_host_.assign(pager_.options().attend_on_host ? n_units() : 0, 0);
    released_ = acquired_ = claimed_ = claimed_pages_ = 0;
    next_unit_ = next_page_ = 0;
    running_ = true;
  }
  void end() { running_ = false; }
  // The sweep was broken off, and nothing is claimed any more.
  void abandon() {
    end();
    next_.clear();
    next_unit_ = kNowhere;
  }
  bool running() const { return running_; }

  size_t n_units() const { return static_cast<size_t>(pager_.options().n_layers) * units_.size(); }
  size_t first_unit(int64_t layer, size_t micro_batch) const { return static_cast<size_t>(layer) * units_.size() + first_unit_[micro_batch]; }
  const Unit& unit(size_t i) const { return units_[i % units_.size()]; }
  // of K and V, in the unit's layer
  std::array<std::vector<KvPageId>*, 2> lists(size_t i) const {
    const size_t list = first_list(i);
    return {&unit(i).table->pages[list], &unit(i).table->pages[list + 1]};
  }
  size_t first_list(size_t i) const { return 2 * (i / units_.size()); }
  // pages of a unit that there are and that it claims, in the order they are read
  template <typename Fn>
  void for_each_page(size_t i, Fn&& fn) const {
    const auto n = static_cast<size_t>(div_up(unit(i).span->end(), pager_.options().layout.page_tokens));
    for (auto* list : lists(i))
      for (size_t p = on_host(i); p < std::min(n, list->size()); ++p) fn((*list)[p]);
  }
  // the first pages of K and of V that are attended on the host: of a unit that is claimed, even in part, and until it is released
  size_t on_host(size_t i) const { return on_host_.empty() ? 0 : on_host_[i]; }

  size_t released() const { return released_; }
  size_t acquired() const { return acquired_; }
  size_t claimed() const { return claimed_; }
  // whoever has brought in the pages
  void set_acquired(size_t end) { acquired_ = end; }

  // The acquired units are done with.
  void release() {
    for (size_t i = released_; i < acquired_; ++i) for_each_page(i, [&](KvPageId id) { pager_.unclaim(id); });
    released_ = acquired_;
  }

  // Claims the pages of units up to limit, in order, as far as that is possible.
  void advance(size_t limit, KvPager::Urgency urgency) {
    pager_.poll_reads();
    while (claimed_ < limit) {
      const Unit& u = unit(claimed_);
      // Pages that an earlier span of the same sequence fills in this layer are not known before it is done with.
      if (u.previous >= 0 && claimed_ - claimed_ % units_.size() + static_cast<size_t>(u.previous) >= released_) break;
      const auto n = static_cast<size_t>(div_up(u.span->end(), pager_.options().layout.page_tokens));
      const auto [k, v] = lists(claimed_);
      if (claimed_pages_ == 0 && !on_host_.empty()) on_host_[claimed_] = count_on_host(u, *k, *v);
      const size_t first = on_host(claimed_), n_k = std::min(n, k->size()) - first, n_v = std::min(n, v->size()) - first;
      for (; claimed_pages_ < n_k + n_v; ++claimed_pages_)
        if (!pager_.claim(claimed_pages_ < n_k ? (*k)[first + claimed_pages_] : (*v)[first + claimed_pages_ - n_k], urgency)) return pager_.flush();
      ++claimed_;
      claimed_pages_ = 0;
    }
    pager_.flush();
  }

  // All of this sweep is claimed, or it has ended: claims for the next one, in layers that are done with. Not after its tables have changed.
  void read_on() {
    pager_.poll_reads();
    for (; next_unit_ < released_; ++next_unit_, next_page_ = 0) {
      if (unit(next_unit_).previous >= 0) continue;  // a sequence that was seen already
      const auto [k, v] = lists(next_unit_);
      for (; next_page_ < k->size() + v->size(); ++next_page_) {
        const KvPageId id = next_page_ < k->size() ? (*k)[next_page_] : (*v)[next_page_ - k->size()];
        if (!pager_[id].in_slot() || (!on_host_.empty() && pager_.goes_to_host(id))) continue;  // there already
        if (!pager_.claim(id, KvPager::Urgency::later)) return pager_.flush();
        next_.push_back(id);
      }
    }
    pager_.flush();
  }
  // What was claimed for this sweep before it began: it has claims of its own now.
  void give_up_next() {
    for (const KvPageId id : next_) pager_.unclaim(id);
    next_.clear();
  }
  // false: there was nothing to give up
  bool stop_reading_on() {
    const bool any = !next_.empty();
    give_up_next();
    next_unit_ = kNowhere;
    return any;
  }
  // A sequence gives up a page; tables change.
  void forget(KvPageId id) {
    next_unit_ = kNowhere;
    if (pager_[id].claims > 0)
      std::erase_if(next_, [&](KvPageId other) {
        if (other == id) pager_.unclaim(id);
        return other == id;
      });
  }

  // Gives up what is claimed beyond the units that are acquired; false: nothing is.
  bool rewind() {
    if (stop_reading_on()) return true;
    if (!running_ || (claimed_ == acquired_ && claimed_pages_ == 0)) return false;
    for (size_t i = acquired_; i < claimed_; ++i) for_each_page(i, [&](KvPageId id) { pager_.unclaim(id); });
    size_t left = claimed_pages_;
    if (left > 0)
      for_each_page(claimed_, [&](KvPageId id) {
        if (left > 0) --left, pager_.unclaim(id);
      });
    claimed_ = acquired_;
    claimed_pages_ = 0;
    return true;
  }

  // The end of the units, at least one, that should be acquired next, of those that are claimed and before `end`: as long as no more than
  // `enough` of their pages are in staging frames
  size_t next_end(size_t end, size_t enough) const {
    size_t last = acquired_, staged = 0;
    while (last < std::min(claimed_, end)) {
      size_t more = 0;
      for_each_page(last, [&](KvPageId id) { more += pager_[id].staged; });
      if (last > acquired_ && staged + more > enough) break;
      staged += more;
      ++last;
    }
    return last;
  }

 private:
  // pages that the unit appends to are none of them
  size_t count_on_host(const Unit& u, const std::vector<KvPageId>& k, const std::vector<KvPageId>& v) const {
    const size_t most = std::min({k.size(), v.size(), static_cast<size_t>(u.span->first_position / pager_.options().layout.page_tokens)});
    size_t n = 0;
    while (n < most && pager_.on_host(k[n]) && pager_.on_host(v[n])) ++n;
    return n;
  }

  KvPager& pager_;
  bool running_ = false;
  std::vector<Unit> units_;
  std::vector<size_t> first_unit_;              // of each micro-batch, and the end
  std::vector<size_t> on_host_;                 // of each unit of the sweep; empty: no page is attended on the host
  size_t released_ = 0, acquired_ = 0;
  size_t claimed_ = 0, claimed_pages_ = 0;      // and that many pages of the next unit

  static constexpr size_t kNowhere = SIZE_MAX;
  size_t next_unit_ = kNowhere, next_page_ = 0; // where reading on for the next sweep has come to
  std::vector<KvPageId> next_;                  // claimed for it
};

}  // namespace flexgen
