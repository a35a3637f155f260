// SPDX-License-Identifier: Apache-2.0
// Reads and writes that go on while others compute. A request names memory and a place in a file and carries a ticket; the ticket tells
// when it is done. Requests are started in the order they were submitted, as many at a time as the engine finds good; they may end in
// any order. A request is whole or an error: short transfers, EINTR and EAGAIN are resumed inside, EIO is tried twice more.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen {

// The state of one request. Reused as often as its owner likes, but must stay where it is until the request is done.
// thread: start, done, wait and error belong to the owner; finish to the engine
class IoTicket {
 public:
  static constexpr int kEndOfFile = -1;  // the file ended before the last byte asked for
  static constexpr int kDevice = -3;     // the device failed that the bytes were to come from or go to: IoEngine::rethrow

  IoTicket() = default;
  IoTicket(const IoTicket&) = delete;
  IoTicket& operator=(const IoTicket&) = delete;

  void start() { state_.store(kPending, std::memory_order_relaxed); }
  bool done() const { return state_.load(std::memory_order_acquire) != kPending; }
  // blocks; returns error()
  int wait() const {
    state_.wait(kPending, std::memory_order_acquire);
    return error();
  }
  // of a request that is done: 0, an errno, kEndOfFile or kDevice
  int error() const { return state_.load(std::memory_order_acquire); }

  void finish(int error) {
    state_.store(error, std::memory_order_release);
    state_.notify_all();
  }

 private:
  static constexpr int kPending = -2;

  std::atomic<int> state_{0};
};

struct IoRequest {
  enum class Op : uint8_t { read, write };
  Op op = Op::read;
  int fd = -1;                   // stays open until the request is done
  uint64_t offset = 0;           // in the file. With O_DIRECT offset, data and bytes are multiples of kIoAlign
  std::byte* data = nullptr;     // read into or written from
  size_t bytes = 0;
  IoTicket* ticket = nullptr;    // not pending; made pending by submit
  // for the trace
  int32_t layer = -1, micro_batch = -1;
  const char* what = "";         // lives for ever
  // Of engines that hash (IoEngine::hashes): XXH3 of the content with this seed, there when the ticket is done; null: not wanted
  uint64_t* hash = nullptr;
  uint64_t seed = 0;
};

// Since the engine was made
struct IoStatistics {
  uint64_t reads = 0, writes = 0;              // requests done
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t short_transfers = 0, retries = 0;   // resumed; tried again after EINTR, EAGAIN, EIO
  uint64_t errors = 0;                         // requests that failed in the end
  double busy_s = 0;                           // with at least one request in flight
  double reading_s = 0, writing_s = 0;         // with at least one of these in flight
  double byte_seconds = 0;                     // integral of the bytes in flight: over busy_s it is their mean
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;  // drains

  // Makes the tickets pending and queues the requests; does not wait for the disk. thread: any
  virtual void submit(std::span<const IoRequest> requests) = 0;
  // waits until nothing is pending. thread: any
  virtual void drain() = 0;
  virtual IoStatistics statistics() const = 0;  // thread: any
  virtual std::string_view name() const = 0;    // "io_uring", "threads"
  // Does it hash what it moves? Only where its memory is out of the host's reach: else owners do that when it suits them.
  virtual bool hashes() const { return false; }
  // throws what a device said whose requests ended with IoTicket::kDevice
  virtual void rethrow() const {}
};

}  // namespace flexgen
