// SPDX-License-Identifier: Apache-2.0
// See race.h.
#include "kernels/emu/race.h"

#include <algorithm>

#include "kernels/emu/shared_memory.h"

namespace flexgen::emu {

void RaceChecker::begin_block(uint32_t threads, uint32_t engines) {
  clocks_.begin_block(threads, threads + engines);
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
    case kInFlight:
      return conflict(Conflict::Kind::in_flight, offset, c.writer, Access::write, c.site);
    case kWrittenAtomically:
      if (kind == Access::atomic) return {};
      break;
    case kWritten:
    case kWrittenByEngine:
      break;
  }
  if (clocks_.ordered(c.writer, c.time, thread)) return {};
  return conflict(Conflict::Kind::race, offset, c.writer, c.state == kWrittenAtomically ? Access::atomic : Access::write, c.site);
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
    remember_reads(thread, {clocks_.now(thread), id, thread}, offset, bytes);
    return {};
  }
  for (size_t i = offset; i < end; i = same_readers_until(i, end))
    for (const Read& r : readers_[cells_[i].readers].reads)
      if (!clocks_.ordered(r.actor, r.time, thread)) return conflict(Conflict::Kind::race, i, r.actor, Access::read, r.site);
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

void RaceChecker::set_written(size_t offset, size_t bytes, Clocks::Actor writer, Clocks::Time time, State state, const Site& site) {
  const SiteId id = id_of(site);
  for (size_t i = offset; i < offset + bytes; ++i) {
    Cell& c = cells_[i];
    c.time = time;
    c.site = id;
    c.writer = static_cast<uint16_t>(writer);
    c.state = state;
  }
}

void RaceChecker::copy_lands(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site) {
  set_written(offset, bytes, thread, clocks_.now(thread), kWritten, site);
}

// Were ordinary stores fenced before an engine touches their bytes?
Conflict RaceChecker::check_fence(Clocks::Actor thread, size_t offset, const Cell& c) const {
  if ((c.state != kWritten && c.state != kWrittenAtomically) || clocks_.fenced(c.writer, c.time, thread)) return {};
  return conflict(Conflict::Kind::unfenced, offset, c.writer, Access::write, c.site);
}

Conflict RaceChecker::engine_will_write(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site) {
  cell(offset + bytes - 1);
  for (size_t i = offset; i < offset + bytes; ++i) {
    const Cell& c = cells_[i];
    if (check_writer(thread, i, Access::write, c).kind != Conflict::Kind::none) break;  // copy_issued() says more
    if (const Conflict found = check_fence(thread, i, c); found.kind != Conflict::Kind::none) return found;
  }
  return copy_issued(thread, offset, bytes, site);
}

Conflict RaceChecker::fenced_for_engine(Clocks::Actor thread, size_t offset, size_t bytes) const {
  for (size_t i = offset; i < offset + bytes; ++i)
    if (const Conflict found = check_fence(thread, i, cells_[i]); found.kind != Conflict::Kind::none) return found;
  return {};
}

void RaceChecker::engine_wrote(Clocks::Actor engine, Clocks::Time time, size_t offset, size_t bytes, const Site& site) {
  set_written(offset, bytes, engine, time, kWrittenByEngine, site);
}

Conflict RaceChecker::engine_reads(Clocks::Actor thread, Clocks::Actor engine, Clocks::Time time, size_t offset, size_t bytes, const Site& site) {
  cell(offset + bytes - 1);
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (const Conflict found = check_writer(thread, i, Access::read, cells_[i]); found.kind != Conflict::Kind::none) return found;
    if (const Conflict found = check_fence(thread, i, cells_[i]); found.kind != Conflict::Kind::none) return found;
  }
  remember_reads(thread, {time, id_of(site), engine}, offset, bytes);
  return {};
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

void RaceChecker::remember_reads(Clocks::Actor thread, const Read& now, size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes;) {
    const size_t until = same_readers_until(i, offset + bytes);
    remember_read(thread, now, i, until);
    i = until;
  }
}

// Bytes [begin, end) have one set of readers, which other bytes may share
void RaceChecker::remember_read(Clocks::Actor thread, const Read& now, size_t begin, size_t end) {
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
  // A read that happens before this one needs no memory: who is ordered behind this one is ordered behind that one too
  for (Read& r : reads) {
    if (clocks_.ordered(r.actor, r.time, thread) || (r.actor == now.actor && r.time <= now.time)) {
      r = now;
      return;
    }
  }
  reads.push_back(now);
}

}  // namespace flexgen::emu
