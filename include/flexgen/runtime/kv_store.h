// SPDX-License-Identifier: Apache-2.0
// The KV cache of all sequences, in pages. A page holds K or V of `page_tokens` positions of one sequence in one layer; sequences
// that share a prefix share its full pages. Pages are counted, so a sequence that ends gives back only what nobody else reads.
// Tokens are appended provisionally: a sequence's length grows only when they are committed.
//
// Here every page lies in host memory. The sweep reaches pages through acquire and release alone, one layer and one micro-batch at a
// time, so that pages can come from elsewhere.
#pragma once

#include <cstring>
#include <unordered_map>
#include <vector>

#include "flexgen/memory/buffer.h"
#include "flexgen/ops/ops.h"
#include "flexgen/runtime/sweep_plan.h"

namespace flexgen {

// Fixed-size pages cut from chunks that are mapped as they are needed, up to a limit.
// thread: one at a time
class PagePool {
 public:
  using Page = uint32_t;

  PagePool(size_t page_bytes, size_t max_pages)
      : page_bytes_(round_up<size_t>(page_bytes, 4096)),
        pages_per_chunk_(std::max<size_t>(1, kChunkBytes / page_bytes_)),
        max_pages_(max_pages) {}

  // a page nobody owns yet, owned once; content undefined. Running out is the caller's bug: it reserves before.
  Page allocate() {
    if (free_.empty()) grow();
    const Page p = free_.back();
    free_.pop_back();
    owners_[p] = 1;
    ++used_;
    return p;
  }
  void retain(Page p) { ++owners_[p]; }
  void release(Page p) {
    FG_CHECK(owners_[p] > 0, "page {}", p);
    if (--owners_[p] > 0) return;
    free_.push_back(p);
    --used_;
  }
  bool shared(Page p) const { return owners_[p] > 1; }

  std::byte* data(Page p) const { return chunks_[p / pages_per_chunk_].data() + (p % pages_per_chunk_) * page_bytes_; }
  size_t page_bytes() const { return page_bytes_; }  // a multiple of 4 KiB
  size_t max_pages() const { return max_pages_; }
  size_t used_pages() const { return used_; }

 private:
  static constexpr size_t kChunkBytes = 32_MiB;

  void grow() {
    FG_CHECK(owners_.size() < max_pages_, "all {} pages of the KV cache are in use", max_pages_);
    const size_t first = owners_.size(), n = std::min(pages_per_chunk_, max_pages_ - first);
    chunks_.emplace_back(n * page_bytes_);
    owners_.resize(first + n);
    for (size_t i = n; i-- > 0;) free_.push_back(static_cast<Page>(first + i));
  }

  size_t page_bytes_, pages_per_chunk_, max_pages_;
  size_t used_ = 0;
  std::vector<Buffer> chunks_;
  std::vector<uint32_t> owners_;  // per page
  std::vector<Page> free_;        // the next one at the back
};

// The cache of one micro-batch in one layer, ready to be read and appended to
struct KvView {
  std::vector<KvSpan> spans;           // one a span of the micro-batch, in its order
  std::vector<std::byte*> addresses;   // what the spans' page lists point into
};

// thread: one at a time
class KvStore {
 public:
  // layout: of a page; budget_bytes: of all pages together
  KvStore(int64_t n_layers, KvLayout layout, uint64_t budget_bytes)
      : n_layers_(n_layers), layout_(layout), pool_(layout.page_bytes(), budget_bytes / round_up<size_t>(layout.page_bytes(), 4096)) {}

  const KvLayout& layout() const { return layout_; }
  const PagePool& pool() const { return pool_; }

  // pages that a sequence of n_tok tokens owns
  size_t pages_for(int64_t n_tok) const { return static_cast<size_t>(2 * n_layers_ * div_up(n_tok, layout_.page_tokens)); }

  SequenceId create() {
    tables_[next_].pages.resize(static_cast<size_t>(2 * n_layers_));
    return next_++;
  }

  // a sequence with the same committed tokens: full pages are shared, the last one is copied if it is partly filled
  SequenceId fork(SequenceId from) {
    const SequenceId to = create();
    const Table& source = table(from);
    Table& target = table(to);
    target.length = source.length;
    const auto full = static_cast<size_t>(source.length / layout_.page_tokens);
    for (size_t list = 0; list < target.pages.size(); ++list) {
      for (size_t i = 0; i < full; ++i) {
        pool_.retain(source.pages[list][i]);
        target.pages[list].push_back(source.pages[list][i]);
      }
      if (source.length % layout_.page_tokens == 0) continue;
      const PagePool::Page copy = pool_.allocate();
      std::memcpy(pool_.data(copy), pool_.data(source.pages[list][full]), pool_.page_bytes());
      target.pages[list].push_back(copy);
    }
    return to;
  }

  void drop(SequenceId id) {
    truncate(id, 0);
    tables_.erase(id);
  }

  int64_t length(SequenceId id) const { return table(id).length; }  // committed tokens
  void commit(SequenceId id, int64_t n_tok) { table(id).length += n_tok; }

  // forgets all tokens from position n_tok on, committed or not
  void truncate(SequenceId id, int64_t n_tok) {
    Table& t = table(id);
    const auto keep = static_cast<size_t>(div_up(n_tok, layout_.page_tokens));
    for (auto& list : t.pages)
      for (; list.size() > keep; list.pop_back()) pool_.release(list.back());
    t.length = std::min(t.length, n_tok);
  }

  // The pages of the micro-batch's sequences in this layer, up to the end of their spans; missing ones are added.
  const KvView& acquire(int64_t layer, const MicroBatch& batch) {
    view_.spans.clear();
    view_.addresses.clear();
    int64_t row = 0;
    for (const Span& s : batch.spans) {
      const auto n = static_cast<size_t>(div_up(s.end(), layout_.page_tokens));
      Table& t = table(s.sequence);
      for (size_t kind = 0; kind < 2; ++kind) {
        auto& list = t.pages[static_cast<size_t>(2 * layer) + kind];
        while (list.size() < n) list.push_back(pool_.allocate());
        for (size_t i = 0; i < n; ++i) view_.addresses.push_back(pool_.data(list[i]));
      }
      view_.spans.push_back({row, s.n_tok(), s.first_position, nullptr, nullptr});
      row += s.n_tok();
    }
    // the addresses stand still now
    std::byte* const* next = view_.addresses.data();
    for (size_t i = 0; i < batch.spans.size(); ++i) {
      const int64_t n = div_up(batch.spans[i].end(), layout_.page_tokens);
      view_.spans[i].k_pages = next;
      view_.spans[i].v_pages = next + n;
      next += 2 * n;
    }
    return view_;
  }
  void release(int64_t /*layer*/, const MicroBatch&) {}

 private:
  struct Table {
    int64_t length = 0;
    std::vector<std::vector<PagePool::Page>> pages;  // [2 * layer + (0: K, 1: V)][page]
  };

  Table& table(SequenceId id) {
    const auto it = tables_.find(id);
    FG_CHECK(it != tables_.end(), "sequence {}", id);
    return it->second;
  }
  const Table& table(SequenceId id) const { return const_cast<KvStore*>(this)->table(id); }

  int64_t n_layers_;
  KvLayout layout_;
  PagePool pool_;
  SequenceId next_ = 1;
  std::unordered_map<SequenceId, Table> tables_;
  KvView view_;
};

}  // namespace flexgen
