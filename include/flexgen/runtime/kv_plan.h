// SPDX-License-Identifier: Apache-2.0
// How much memory and disk a KV cache takes, before there is one: pages that stay in memory, pages that go to slots below, and the frames
// that pages pass through on their way in and out. Pure functions; runtime/kv_store.h keeps to them. Frames are a device's memory where
// there is one. Then slots are in host memory or on disk; else on disk alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/ops/ops.h"

namespace flexgen {

// What the cache is to hold at most
struct KvDemand {
  int64_t n_layers = 0;
  KvLayout layout;                           // of a page
  int64_t n_sequences = 0;                   // at a time
  int64_t tokens_per_sequence = 0;           // of the longest
  int64_t sequences_per_micro_batch = 1;
  int64_t micro_batch_tokens = 1;            // of all sequences of a micro-batch together
  double memory_share = 1;                   // of the full pages, 0 .. 1: in frames
  bool overlap = true;                       // read ahead and write behind
  uint64_t look_ahead_bytes = 64_MiB;        // wanted for pages read ahead, where there are that many
  int64_t total_tokens = 0;                  // of all sequences together, at least the longest one's; 0: all are as long
  double host_share = 0;                     // of the full pages: in slots in host memory. The rest is on disk
  bool attend_on_host = false;               // pages in host memory are attended there; K and V lie together
};

struct KvRequirement {
  size_t frame_bytes = 0;                    // of one page's frame and slot, a multiple of 4 KiB
  size_t memory_pages = 0;                   // frames of full pages that stay in memory
  size_t unfilled_pages = 0;                 // frames of the last page of each list; they stay in memory
  size_t staging_in = 0;                     // frames of pages that come from slots, in use or ahead
  size_t smallest_staging_in = 0;            // what the store can do with: one sequence's pages of one layer
  size_t staging_out = 0;                    // frames of full pages that are being written
  size_t disk_pages = 0;                     // slots of the spill file
  size_t host_pages = 0;                     // slots in host memory

  size_t frames() const { return memory_pages + unfilled_pages + staging_in + staging_out; }
  uint64_t memory_bytes() const { return static_cast<uint64_t>(frames()) * frame_bytes; }
  uint64_t disk_bytes() const { return static_cast<uint64_t>(disk_pages) * frame_bytes; }
  uint64_t host_bytes() const { return static_cast<uint64_t>(host_pages) * frame_bytes; }
  uint64_t host_offset() const { return disk_bytes(); }  // where requests name them, "in" the spill file: behind its end
};

// bytes of a page's frame and slot: what O_DIRECT can move
inline size_t kv_frame_bytes(const KvLayout& layout) { return round_up<size_t>(layout.page_bytes(), 4096); }

inline KvRequirement kv_requirement(const KvDemand& d) {
  FG_CHECK(d.n_layers > 0 && d.n_sequences >= 0 && d.tokens_per_sequence >= 0 && d.sequences_per_micro_batch > 0 && d.micro_batch_tokens > 0,
           "{} layers, {} sequences of {} tokens, micro-batches of {} sequences and {} tokens", d.n_layers, d.n_sequences, d.tokens_per_sequence,
           d.sequences_per_micro_batch, d.micro_batch_tokens);
  FG_CHECK(d.memory_share >= 0 && d.memory_share <= 1, "share of the memory {}", d.memory_share);
  FG_CHECK(d.host_share >= 0 && d.memory_share + d.host_share <= 1 + 1e-9, "shares of {} and {}", d.memory_share, d.host_share);
  const int64_t page = d.layout.page_tokens, lists = 2 * d.n_layers;  // of a sequence
  const int64_t together = d.attend_on_host ? 2 : 1;  // pages
  const auto share_of = [](int64_t n, double share) { return static_cast<int64_t>(std::ceil(static_cast<double>(n) * share)); };
  const auto placed = [&](int64_t n, double share) { return static_cast<size_t>(round_up(share_of(n, share), together)); };

  KvRequirement r;
  r.frame_bytes = kv_frame_bytes(d.layout);
  if (d.n_sequences == 0 || d.tokens_per_sequence == 0) return r;
  const int64_t full = d.tokens_per_sequence / page;              // pages of a list that are full in the end
  const int64_t behind = div_up(d.tokens_per_sequence, page) - 1; // full ones beside the one that is filled last
  const int64_t most = d.total_tokens > 0 ? d.total_tokens / page : d.n_sequences * full;  // full pages of all sequences in one list
  r.unfilled_pages = static_cast<size_t>(lists * d.n_sequences);
  r.memory_pages = placed(lists * std::min(most, d.n_sequences * behind), d.memory_share);
  if (d.memory_share == 1) return r;
  const int64_t most_full = lists * std::min(most, d.n_sequences * full);
  const double above = d.memory_share + d.host_share;  // the disk
  if (above < 1 - 1e-9) {
    const int64_t left = most_full - static_cast<int64_t>(std::floor(static_cast<double>(most_full) * above));
    r.disk_pages = static_cast<size_t>(round_up(left, together));
  }
  r.host_pages = placed(most_full, d.host_share);
  const auto lower = static_cast<int64_t>(r.disk_pages + r.host_pages);
  if (lower == 0) return r;

  // The store evens pages out over sequences and layers to within two of the share.
  const double lower_share = 1 - d.memory_share, coming = d.attend_on_host ? std::max(0.0, 1 - above) : lower_share;
  const int64_t of_sequence = std::min(2 * full, share_of(2 * full, coming) + 2 * together);  // pages that come from slots, in one layer
  const int64_t in_micro_batch = std::min(d.sequences_per_micro_batch, d.n_sequences);
  const int64_t of_micro_batch = in_micro_batch * of_sequence;
  r.smallest_staging_in = static_cast<size_t>(of_sequence);
  const auto wanted = static_cast<int64_t>(d.look_ahead_bytes / r.frame_bytes);
  const int64_t ahead = coming == 0 ? of_sequence : d.overlap ? std::max(2 * of_sequence, wanted) : std::min(of_micro_batch, wanted);
  r.staging_in = static_cast<size_t>(std::max(of_sequence, std::min({ahead, d.n_sequences * of_sequence, lower})));

  // Each span of a micro-batch can fill one page more than its tokens would alone. Twice that: one half is filled while the other is written.
  const int64_t filled = 2 * std::min(d.micro_batch_tokens, d.micro_batch_tokens / page + in_micro_batch);
  const int64_t leaving = std::min(filled, share_of(filled, lower_share) + 2 * together);
  r.staging_out = static_cast<size_t>(std::min((d.overlap ? 2 : 1) * leaving, lower));
  return r;
}

// Tokens of a page: as few as the kernels take, 32 on a device, else 16 where that takes less memory. Where pages go to disk, enough for
// about 256 KiB, below which a disk is slow, but at most an eighth of the sequence: the last, partly filled pages are to be a small share of
// the memory.
inline int64_t choose_page_tokens(DType dtype, int64_t n_kv_heads, int64_t head_dim, int64_t tokens_per_sequence, bool spills, bool device = false) {
  constexpr uint64_t kPageBytes = 256_KiB;
  const auto page = [&](int64_t tokens) { return KvLayout{dtype, n_kv_heads, head_dim, tokens}; };
  const int64_t half = kAttentionBlock / 2;
  const int64_t smallest = !device && kv_frame_bytes(page(half)) < kv_frame_bytes(page(kAttentionBlock)) ? half : kAttentionBlock;
  if (!spills) return smallest;
  const auto wanted = div_up<int64_t>(static_cast<int64_t>(kPageBytes), static_cast<int64_t>(page(kAttentionBlock).page_bytes()));
  const int64_t blocks = std::min(wanted, tokens_per_sequence / (8 * kAttentionBlock));
  return blocks > 0 ? blocks * kAttentionBlock : smallest;
}

}  // namespace flexgen
