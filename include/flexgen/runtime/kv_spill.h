// SPDX-License-Identifier: Apache-2.0
// The disk side of the KV cache: slots of one page each in a spill file, and the requests that move pages. Slots that were freed last are
// taken first: blocks that were written before are faster to write again.
#pragma once

#include <string>
#include <system_error>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/io/io_engine.h"

namespace flexgen {

// thread: one at a time
class KvSpill {
 public:
  using Slot = uint32_t;
  static constexpr Slot kNone = ~Slot{0};

  // io may be null where there are no slots; it and the file outlive this
  KvSpill(IoEngine* io, int fd, std::string name, size_t n_slots, size_t slot_bytes)
      : io_(io), fd_(fd), name_(std::move(name)), n_slots_(n_slots), slot_bytes_(slot_bytes) {
    FG_CHECK(n_slots < kNone, "{} slots", n_slots);
    FG_CHECK(n_slots == 0 || (io != nullptr && fd >= 0), "{} slots without a file", n_slots);
  }

  size_t max() const { return n_slots_; }
  size_t used() const { return used_; }
  size_t left() const { return n_slots_ - used_; }
  uint64_t offset(Slot s) const { return static_cast<uint64_t>(s) * slot_bytes_; }

  // There must be one left.
  Slot allocate() {
    FG_CHECK(left() > 0, "all {} pages of the spill file are in use", n_slots_);
    ++used_;
    if (free_.empty()) return static_cast<Slot>(made_++);
    const Slot s = free_.back();
    free_.pop_back();
    return s;
  }
  void release(Slot s) {
    FG_CHECK(s < made_ && used_ > 0, "slot {}", s);
    free_.push_back(s);
    --used_;
  }

  // Queues a request until flush; the ticket counts as pending from there on.
  void read(Slot s, std::byte* data, IoTicket& ticket, int32_t layer, int32_t micro_batch) {
    reads_.push_back({IoRequest::Op::read, fd_, offset(s), data, slot_bytes_, &ticket, layer, micro_batch, "kv"});
  }
  void write(Slot s, std::byte* data, IoTicket& ticket, int32_t layer, int32_t micro_batch) {
    writes_.push_back({IoRequest::Op::write, fd_, offset(s), data, slot_bytes_, &ticket, layer, micro_batch, "kv"});
  }
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
    fail(Fault::io, "{}: reading {} at offset {}: {}. Check the disk", name_, page, offset(s), text(error));
  }
  [[noreturn]] void fail_write(Slot s, int error, const std::string& page) const {
    if (error == ENOSPC)
      fail(Fault::space, "{}: writing {} at offset {}: {}. Free space on that disk or give the KV cache more memory", name_, page, offset(s),
           text(error));
    fail(Fault::io, "{}: writing {} at offset {}: {}. Check the disk", name_, page, offset(s), text(error));
  }
  [[noreturn]] void fail_damaged(Slot s, const std::string& page) const {
    fail(Fault::damaged, "{}: {} at offset {} is not what was written there, twice read. Check the disk and the memory", name_, page, offset(s));
  }

 private:
  static std::string text(int error) {
    return error == IoTicket::kEndOfFile ? "the file has ended" : std::generic_category().message(error);
  }

  IoEngine* io_;
  int fd_;
  std::string name_;
  size_t n_slots_, slot_bytes_;
  size_t made_ = 0, used_ = 0;
  std::vector<Slot> free_;  // the next one at the back
  std::vector<IoRequest> reads_, writes_;
};

}  // namespace flexgen
