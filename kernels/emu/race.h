// SPDX-License-Identifier: Apache-2.0
// What race mode keeps of every byte of shared memory: who wrote it last, who read it since, whether an asynchronous copy to it is in
// flight. An access that is not ordered behind those it conflicts with is a race, in whatever order the threads happened to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/emu/clocks.h"
#include "kernels/emu/location.h"

namespace flexgen::emu {

enum class Access : uint8_t { read, write, atomic };

// Where an access is written in the kernel: a line, or for plain loads and stores a program counter
struct Site {
  Location where;
  const void* pc = nullptr;

  uint64_t key() const {
    return pc != nullptr ? reinterpret_cast<uintptr_t>(pc) : reinterpret_cast<uintptr_t>(where.file) * 65599 + static_cast<uintptr_t>(where.line);
  }
};

struct Conflict {
  enum class Kind { none, race, in_flight, uninitialised, unfenced } kind = Kind::none;
  size_t offset = 0;                    // of the first byte at fault
  Clocks::Actor other = 0;              // who is in the way
  Access others_access = Access::read;  // what it did
  Site others_site;                     // and where
};

class RaceChecker {
 public:
  // Actors: threads, then `engines` that read and write for them
  void begin_block(uint32_t threads, uint32_t engines);
  Clocks& clocks() { return clocks_; }

  // Thread reads or writes shared memory [offset, offset + bytes) now. Remembers it where there is no conflict.
  Conflict access(Clocks::Actor thread, size_t offset, size_t bytes, Access kind, const Site& site);

  // cp.async: a copy that thread issued will write these bytes, until copy_lands(): then they are written by that thread at that time.
  Conflict copy_issued(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site);
  void copy_lands(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site);

  // The asynchronous proxy: what thread wrote with ordinary stores must be fenced before an engine touches it.
  // A write that thread issued, until engine_wrote() at a time of that engine
  Conflict engine_will_write(Clocks::Actor thread, size_t offset, size_t bytes, const Site& site);
  void engine_wrote(Clocks::Actor engine, Clocks::Time time, size_t offset, size_t bytes, const Site& site);
  Conflict fenced_for_engine(Clocks::Actor thread, size_t offset, size_t bytes) const;
  // A read that thread issued and that ends at that time of the engine
  Conflict engine_reads(Clocks::Actor thread, Clocks::Actor engine, Clocks::Time time, size_t offset, size_t bytes, const Site& site);

 private:
  using SiteId = uint32_t;
  using ReadersId = uint32_t;  // index into readers_, 0: nobody
  enum State : uint8_t { kUnwritten, kWritten, kWrittenAtomically, kWrittenByEngine, kInFlight };

  struct Cell {  // one byte
    Clocks::Time time = 0;
    SiteId site = 0;
    ReadersId readers = 0;
    uint16_t writer = 0;
    State state = kUnwritten;
  };
  struct Read {
    Clocks::Time time;
    SiteId site;
    Clocks::Actor actor;
  };
  struct Readers {  // shared by neighbouring bytes that were always read together
    uint32_t bytes = 0;
    std::vector<Read> reads;
  };

  Cell& cell(size_t offset);
  SiteId id_of(const Site& site);
  Conflict conflict(Conflict::Kind kind, size_t offset, Clocks::Actor other, Access access, SiteId site) const;
  Conflict check_writer(Clocks::Actor thread, size_t offset, Access kind, const Cell& c) const;
  Conflict check_fence(Clocks::Actor thread, size_t offset, const Cell& c) const;
  void remember_reads(Clocks::Actor thread, const Read& now, size_t offset, size_t bytes);
  void remember_read(Clocks::Actor thread, const Read& now, size_t begin, size_t end);
  void set_written(size_t offset, size_t bytes, Clocks::Actor writer, Clocks::Time time, State state, const Site& site);
  void forget_reads(Cell& c);
  ReadersId new_readers(uint32_t bytes);
  size_t same_readers_until(size_t begin, size_t end) const;

  Clocks clocks_;
  std::vector<Cell> cells_;
  std::vector<Readers> readers_;
  std::vector<ReadersId> unused_readers_;
  std::vector<Site> sites_;
  std::unordered_map<uint64_t, SiteId> site_ids_;
};

}  // namespace flexgen::emu
