// SPDX-License-Identifier: Apache-2.0
// See race.h.
#include "kernels/emu/race.h"

#include <algorithm>

#include "kernels/emu/shared_memory.h"

namespace flexgen::emu {

void RaceChecker::begin_block(uint32_t threads) {
  clocks_.begin_block(threads, threads);
  cells_.clear();
  readers_.clear();
  readers_.emplace_back();  // 0: nobody
  unused_readers_.clear();
  if (sites_.empty()) sites_.emplace_back();
}

RaceChecker::Cell& RaceChecker::cell(size_t offset) {
  if (offset >= cells_.size()) cells_.resize(std::min(SharedMemory::kArenaBytes, (offset + 4096) / 4096 * 4096));
  return cells_[offset];
}

RaceChecker::SiteId RaceChecker::id_of(const Site& site) {
  const auto [at, fresh] = site_ids_.try_emplace(site.key(), static_cast<SiteId>(sites_.size()));
  if (fresh) sites_.push_back(site);
  return at->second;
}

Conflict RaceChecker::conflict(Conflict::Kind kind, size_t offset, Clocks::Actor other, Access access, SiteId site) const {
  return {kind, offset, other, access, sites_[site]};
}

// Is the last write ordered before this access?
Conflict RaceChecker::check_writer(Clocks::Actor thread, size_t offset, Access kind, const Cell& c) const {
  switch (c.state) {
    case kUnwritten:
      if (kind == Access::write) return {};
      return {Conflict::Kind::uninitialised, offset, thread, Access::write, {}};
    case kInFlight: return conflict(Conflict::Kind::in_flight, offset, c.writer, Access::write, c.site);
    case kWrittenAtomically:
      if (kind == Access::atomic) return {};
      break;
    case kWritten: break;
  }
  if (clocks_.ordered(c.writer, c.time, thread)) return {};
  return conflict(Conflict::Kind::race, offset, c.writer, c.state == kWritten ? Access::write : Access::atomic, c.site);
}

size_t RaceChecker::same_readers_until(size_t begin, size_t end) const {
  size_t i = begin + 1;
  while (i < end && cells_[i].readers == cells_[begin].readers) ++i;
  return i;
}

Conflict RaceChecker::access(Clocks::Actor thread, size_t offset, size_t bytes, Access kind, const Site& site) {
  if (bytes == 0) return {};
  const size_t end = offset + bytes;
  cell(end - 1);
  for (size_t i = offset; i < end; ++i) {
    const Conflict found = check_writer(thread, i, kind, cells_[i]);
    if (found.kind != Conflict::Kind::none) return found;
  }
  const SiteId id = id_of(site);
  if (kind == Access::read) {
    for (size_t i = offset; i < end;) {
      const size_t until = same_readers_until(i, end);
      remember_read(thread, i, until, id);
      i = until;
    }
    return {};
  }
  for (size_t i = offset; i < end; i = same_readers_until(i, end))
    for (const Read& r : readers_[cells_[i].readers].reads)
      if (!clocks_.ordered(r.thread, r.time, thread)) return conflict(Conflict::Kind::race, i, r.thread, Access::read, r.site);
  for (size_t i = offset; i < end; ++i) {
    Cell& c = cells_[i];
    forget_reads(c);
    c.time = clocks_.now(thread);
    c.site = id;
    c.writer = static_cast<uint16_t>(thread);
    c.state = kind == Access::atomic ? kWrittenAtomically : kWritten;
  }
  return {};
}

Conflict RaceChecker::copy_issued(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site) {
  const Conflict found = access(thread, offset, bytes, Access::write, site);
  if (found.kind == Conflict::Kind::none)
    for (size_t i = offset; i < offset + bytes; ++i) cells_[i].state = kInFlight;
  return found;
}

void RaceChecker::copy_lands(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site) {
  const SiteId id = id_of(site);
  for (size_t i = offset; i < offset + bytes; ++i) {
    Cell& c = cells_[i];
    c.time = clocks_.now(thread);
    c.site = id;
    c.writer = static_cast<uint16_t>(thread);
    c.state = kWritten;
  }
}

RaceChecker::ReadersId RaceChecker::new_readers(uint32_t bytes) {
  ReadersId id = 0;
  if (unused_readers_.empty()) {
    id = static_cast<ReadersId>(readers_.size());
    readers_.emplace_back();
  } else {
    id = unused_readers_.back();
    unused_readers_.pop_back();
    readers_[id].reads.clear();
  }
  readers_[id].bytes = bytes;
  return id;
}

void RaceChecker::forget_reads(Cell& c) {
  if (c.readers == 0) return;
  if (--readers_[c.readers].bytes == 0) unused_readers_.push_back(c.readers);
  c.readers = 0;
}

// Bytes [begin, end) have one set of readers, which other bytes may share
void RaceChecker::remember_read(Clocks::Actor thread, size_t begin, size_t end, SiteId site) {
  ReadersId id = cells_[begin].readers;
  const auto bytes = static_cast<uint32_t>(end - begin);
  if (id == 0 || readers_[id].bytes != bytes) {  // a set of their own
    const ReadersId own = new_readers(bytes);
    if (id != 0) {
      readers_[own].reads = readers_[id].reads;
      readers_[id].bytes -= bytes;
    }
    for (size_t i = begin; i < end; ++i) cells_[i].readers = own;
    id = own;
  }
  auto& reads = readers_[id].reads;
  const Read now{clocks_.now(thread), site, thread};
  // A read that happens before this one needs no memory: who is ordered behind this one is ordered behind that one too
  for (Read& r : reads) {
    if (clocks_.ordered(r.thread, r.time, thread)) {
      r = now;
      return;
    }
  }
  reads.push_back(now);
}

}  // namespace flexgen::emu
