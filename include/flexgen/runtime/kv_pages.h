// SPDX-License-Identifier: Apache-2.0
// The logical pages of the KV cache: what each one holds, where it lies, and who is using it. Plain records with numbers for names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "flexgen/runtime/kv_frames.h"
#include "flexgen/runtime/kv_spill.h"
#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// K or V of page_tokens positions of one sequence in one layer. It lies in a frame (memory), in a slot (below), or in both: while it is
// written, and while a copy of it is in use.
struct KvPage {
  enum class Io : uint8_t { none, reading, writing };

  SequenceId sequence = 0;                  // that made it
  uint32_t list = 0;                        // 2 * layer + (0: K, 1: V)
  uint32_t index = 0;                       // positions [index * page_tokens, (index + 1) * page_tokens)
  uint32_t owners = 0;                      // page tables that hold it. 0: it goes when its write has ended
  uint32_t claims = 0;                      // uses that are coming up or going on; its frame stays
  KvFrames::Frame frame = KvFrames::kNone;
  KvSpill::Slot slot = KvSpill::kNone;
  Io io = Io::none;                         // going on between the two
  bool full = false;                        // every position was written, and a place was chosen
  bool staged = false;                      // its frame is one of the staging frames
  bool checked = false;                     // the frame's content is known to be what was written
  uint64_t seed = 0, hash = 0;              // of what lies in a slot on disk; no two writes have the same seed

  int64_t layer() const { return list / 2; }
  bool in_frame() const { return frame != KvFrames::kNone; }
  bool in_slot() const { return slot != KvSpill::kNone; }
  std::string text(int64_t page_tokens) const {
    return fmt::format("{} of positions {} to {} of sequence {} in layer {}", list % 2 == 0 ? "K" : "V", index * page_tokens,
                       (index + 1) * page_tokens - 1, sequence, layer());
  }
};

using KvPageId = uint32_t;

// thread: one at a time
class KvPages {
 public:
  KvPageId create(SequenceId sequence, size_t list, size_t index) {
    if (free_.empty()) {
      free_.push_back(static_cast<KvPageId>(pages_.size()));
      pages_.emplace_back();
    }
    const KvPageId id = free_.back();
    free_.pop_back();
    pages_[id] = {sequence, static_cast<uint32_t>(list), static_cast<uint32_t>(index), 1};
    return id;
  }
  // a page without owners, frame and slot
  void destroy(KvPageId id) {
    const KvPage& p = pages_[id];
    FG_CHECK(p.owners == 0 && !p.in_frame() && !p.in_slot(), "page {}", id);
    free_.push_back(id);
  }

  // A page in memory alone that nobody is about to use; rather a full one than one that is still filled. Goes round from call to call.
  std::optional<KvPageId> next_victim() {
    std::optional<KvPageId> unfilled;
    for (size_t n = 0; n < pages_.size(); ++n) {
      hand_ = hand_ + 1 < pages_.size() ? hand_ + 1 : 0;
      const KvPage& p = pages_[hand_];
      if (p.owners == 0 || p.claims > 0 || !p.in_frame() || p.in_slot()) continue;
      if (p.full) return static_cast<KvPageId>(hand_);
      if (!unfilled) unfilled = static_cast<KvPageId>(hand_);
    }
    return unfilled;
  }

  KvPage& operator[](KvPageId id) { return pages_[id]; }
  const KvPage& operator[](KvPageId id) const { return pages_[id]; }
  size_t size() const { return pages_.size(); }  // destroyed ones included

 private:
  std::vector<KvPage> pages_;
  std::vector<KvPageId> free_;
  size_t hand_ = 0;  // the last victim
};

}  // namespace flexgen
