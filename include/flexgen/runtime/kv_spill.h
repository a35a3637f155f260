// SPDX-License-Identifier: Apache-2.0
// What lies below the KV cache's frames: slots of one page each, and the requests that move pages. Slots lie in a spill file and behind
// its end, where an engine has pinned host memory instead of a file (io/device_io.h). Slots that were freed last are taken first: blocks
// that were written before are faster to write again.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <system_error>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/runtime/policy.h"

namespace flexgen {

// thread: one at a time
class KvSpill {
 public:
  using Slot = uint32_t;
  static constexpr Slot kNone = ~Slot{0};

  // io may be null where there are no slots; it and the file outlive this. Slots [0, on_disk) are the file's, the rest are on the host.
  KvSpill(IoEngine* io, int fd, std::string name, size_t on_disk, size_t on_host, size_t slot_bytes)
      : io_(io), fd_(fd), name_(std::move(name)), slot_bytes_(slot_bytes) {
    FG_CHECK(on_disk < kNone && on_host < kNone - on_disk, "{} and {} slots", on_disk, on_host);
    FG_CHECK(on_disk == 0 || (io != nullptr && fd >= 0), "{} slots without a file", on_disk);
    FG_CHECK(on_host == 0 || io != nullptr, "{} slots on the host and nobody to move pages", on_host);
    slots(Tier::disk) = {0, on_disk};
    slots(Tier::host) = {on_disk, on_host};
  }

  size_t max() const { return max(Tier::host) + max(Tier::disk); }
  size_t used() const { return used(Tier::host) + used(Tier::disk); }
  size_t left() const { return max() - used(); }
  size_t max(Tier t) const { return slots(t).n; }
  size_t used(Tier t) const { return slots(t).used; }
  size_t left(Tier t) const { return max(t) - used(t); }

  Tier tier(Slot s) const { return s < max(Tier::disk) ? Tier::disk : Tier::host; }
  uint64_t offset(Slot s) const { return static_cast<uint64_t>(s) * slot_bytes_; }
  size_t index_on_host(Slot s) const { return s - max(Tier::disk); }

  // There must be one left.
  Slot allocate(Tier t) {
    FG_CHECK(left(t) > 0, "all {} slots are in use", max(t));
    Slots& of = slots(t);
    ++of.used;
    if (of.free.empty()) return static_cast<Slot>(of.first + of.made++);
    const Slot s = of.free.back();
    of.free.pop_back();
    return s;
  }
  void release(Slot s) {
    Slots& of = slots(tier(s));
    FG_CHECK(s - of.first < of.made && of.used > 0, "slot {}", s);
    of.free.push_back(s);
    --of.used;
  }

  // What is to happen with a page's bytes beside their transfer, and what the trace should call it
  struct Moving {
    IoTicket& ticket;
    uint64_t* hash;  // null: not wanted
    uint64_t seed;
    int32_t layer, micro_batch;
  };

  // Queues a request until flush; the ticket counts as pending from there on.
  void read(Slot s, std::byte* data, const Moving& m) { reads_.push_back(request(IoRequest::Op::read, s, data, m)); }
  void write(Slot s, std::byte* data, const Moving& m) { writes_.push_back(request(IoRequest::Op::write, s, data, m)); }
  // reads first: somebody will wait for them
  void flush() {
    for (auto* queue : {&reads_, &writes_}) {
      if (!queue->empty()) io_->submit(*queue);
      queue->clear();
    }
  }
  void drain() {
    flush();
    if (io_) io_->drain();
  }

  // page: which one, in words
  [[noreturn]] void fail_read(Slot s, int error, const std::string& page) const {
    if (error == IoTicket::kDevice) io_->rethrow();
    fail(Fault::io, "{}: reading {} at offset {}: {}. Check the disk", name_, page, offset(s), text(error));
  }
  [[noreturn]] void fail_write(Slot s, int error, const std::string& page) const {
    if (error == IoTicket::kDevice) io_->rethrow();
    if (error == ENOSPC)
      fail(Fault::space, "{}: writing {} at offset {}: {}. Free space on that disk or give the KV cache more memory", name_, page, offset(s),
           text(error));
    fail(Fault::io, "{}: writing {} at offset {}: {}. Check the disk", name_, page, offset(s), text(error));
  }
  [[noreturn]] void fail_damaged(Slot s, const std::string& page) const {
    fail(Fault::damaged, "{}: {} at offset {} is not what was written there, twice read. Check the disk and the memory", name_, page, offset(s));
  }

 private:
  struct Slots {
    size_t first = 0, n = 0;
    size_t made = 0, used = 0;
    std::vector<Slot> free = {};  // the next one at the back
  };

  const Slots& slots(Tier t) const { return slots_[t == Tier::disk]; }
  Slots& slots(Tier t) { return slots_[t == Tier::disk]; }

  IoRequest request(IoRequest::Op op, Slot s, std::byte* data, const Moving& m) const {
    return {op, fd_, offset(s), data, slot_bytes_, &m.ticket, m.layer, m.micro_batch, "kv", m.hash, m.seed};
  }

  static std::string text(int error) {
    return error == IoTicket::kEndOfFile ? "the file has ended" : std::generic_category().message(error);
  }

  IoEngine* io_;
  int fd_;
  std::string name_;
  size_t slot_bytes_;
  std::array<Slots, 2> slots_;  // on the host, on disk
  std::vector<IoRequest> reads_, writes_;
};

}  // namespace flexgen
