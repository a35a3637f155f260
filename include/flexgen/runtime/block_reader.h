// SPDX-License-Identifier: Apache-2.0
// Row blocks of a model file on their way to where they are used: asked of the engine, waited for, hashed where they have to be, and read
// once more before a hash that does not match is damage. Who calls owns the memory, the tickets and the order.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "flexgen/base/thread_pool.h"
#include "flexgen/base/trace.h"
#include "flexgen/format/model_file.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/memory/device.h"
#include "flexgen/runtime/policy.h"
#include "flexgen/runtime/weight_placement.h"

namespace flexgen {

struct WeightStatistics {
  uint64_t loaded_bytes = 0;    // read once, at the start
  uint64_t streamed_bytes = 0;  // read for sweeps, single rows included
  uint64_t resident_bytes = 0;  // used from memory by sweeps
  uint64_t reread_blocks = 0;   // whose hash was wrong at first, and right when they were read again
  double wait_disk_s = 0;       // consumer waited for a read
  double verify_s = 0;          // consumer waited for hashes
};

// waits for tickets when the scope ends, however it ends: no read may outlive them and their memory
template <typename Tickets>
struct Awaited {
  explicit Awaited(Tickets& all) : tickets(all) {}
  ~Awaited() {
    for (IoTicket& t : tickets) t.wait();
  }
  Tickets& tickets;
};

// thread: one at a time. References outlive this.
class BlockReader {
 public:
  struct Arrived {
    size_t block = 0;
    std::byte* data = nullptr;
    IoTicket* ticket = nullptr;  // done; for a second reading
    uint64_t* hash = nullptr;    // by the engine, where it hashes; null: the host reads data
  };

  // fd: where blocks are read from. device: whose memory they come to, by an engine that hashes; or null
  BlockReader(const ModelFile& file, const WeightPlacement& placement, IoEngine& io, ThreadPool& pool, int fd, Device* device, Verify verify,
              Trace* trace, WeightStatistics& statistics)
      : file_(file),
        placement_(placement),
        io_(io),
        pool_(pool),
        fd_(fd),
        device_(device),
        verify_(verify),
        trace_(trace),
        stats_(statistics),
        verified_(file.blocks().size()) {
    FG_CHECK(!device || io.hashes(), "an engine that does not hash, in front of a device");
  }

  const ModelFile& file() const { return file_; }
  bool resident(size_t block) const { return placement_.resident(block); }
  Device* device() const { return device_; }
  WeightStatistics& statistics() { return stats_; }

  void submit(std::span<const IoRequest> requests) { io_.submit(requests); }
  // what: of the row in a trace
  IoRequest request_bytes(uint64_t offset, std::byte* data, size_t bytes, IoTicket& ticket, const char* what) const {
    return {IoRequest::Op::read, fd_, offset, data, bytes, &ticket, -1, -1, what};
  }
  IoRequest request(size_t block, std::byte* data, IoTicket& ticket) const {
    const FileBlock& b = file_.blocks()[block];
    return request_bytes(b.offset, data, b.bytes, ticket, "weights");
  }
  // to where resident and streamed blocks are used
  IoRequest request(size_t block, std::byte* data, IoTicket& ticket, uint64_t& hash) const {
    IoRequest r = request(block, data, ticket);
    if (device_ && must_verify(block)) r.hash = &hash, r.seed = file_.block_seed(block);
    return r;
  }

  // until_done() waits for tickets and throws what they say; the time goes to the statistics and the trace, unless ready()
  template <typename Wait, typename Ready>
  void wait(Wait&& until_done, Ready&& ready) {
    if (ready()) return until_done();  // for the errors
    const TraceSpan span(trace_, TraceEvent::Kind::wait, "disk");
    const int64_t start = monotonic_ns();
    until_done();
    stats_.wait_disk_s += static_cast<double>(monotonic_ns() - start) * 1e-9;
  }

  // throws what a ticket's error means for that block: Fault::damaged, Fault::io, or what the device said
  void check(size_t block, int error) const {
    if (error == 0) return;
    if (error == IoTicket::kDevice) io_.rethrow();
    const FileBlock& b = file_.blocks()[block];
    if (error == IoTicket::kEndOfFile)
      fail(Fault::damaged, "{}: ends inside {}, block {}, bytes {} to {} of the file: truncated while in use. Copy or convert it again",
           file_.file().path(), file_.block_owner(block), block, b.offset, b.offset + b.bytes - 1);
    fail(Fault::io, "{}: reading {}, block {}, {} bytes at offset {} failed: {}. Check the disk and the system's log", file_.file().path(),
         file_.block_owner(block), block, b.bytes, b.offset, std::strerror(error));
  }

  // What lies in host memory behind a device was verified when it came there.
  bool must_verify(size_t block) const {
    if (placement_.in_host(block) && loaded_) return false;
    return verify_ == Verify::always || (verify_ == Verify::first && !verified_[block]);
  }

  // Hashes what has not been hashed yet, on all threads; what does not match is read once more before it is damage.
  void verify(std::vector<Arrived>& arrived) {
    std::erase_if(arrived, [&](const Arrived& a) { return !must_verify(a.block); });
    if (arrived.empty()) return;
    uint64_t bytes = 0;
    for (const Arrived& a : arrived) bytes += file_.blocks()[a.block].bytes;
    const TraceSpan span(trace_, TraceEvent::Kind::verify, "weights", -1, -1, bytes);
    const int64_t start = monotonic_ns();
    std::atomic<uint64_t> rereads{0};
    const auto verify_one = [&](const Arrived& a) {
      const bool engine = device_ && a.hash;
      const auto hash = [&] { return engine ? *a.hash : file_.block_hash(a.block, {a.data, file_.blocks()[a.block].bytes}); };
      if (hash() == file_.blocks()[a.block].hash) return;
      rereads.fetch_add(1, std::memory_order_relaxed);
      const IoRequest again = engine ? request(a.block, a.data, *a.ticket, *a.hash) : request(a.block, a.data, *a.ticket);
      io_.submit({&again, 1});
      check(a.block, a.ticket->wait());
      file_.verify_block_hash(a.block, hash());
    };
    if (device_) {  // whose engine takes requests of one thread at a time
      for (const Arrived& a : arrived) verify_one(a);
    } else {
      pool_.parallel_for(static_cast<int64_t>(arrived.size()), [&](int64_t i, int) { verify_one(arrived[static_cast<size_t>(i)]); });
    }
    for (const Arrived& a : arrived) verified_[a.block] = true;
    stats_.reread_blocks += rereads.load();
    stats_.verify_s += static_cast<double>(monotonic_ns() - start) * 1e-9;
  }
  // What lies in host memory behind a device has been read from there for the last time.
  void loaded() { loaded_ = true; }

 private:
  const ModelFile& file_;
  const WeightPlacement& placement_;
  IoEngine& io_;
  ThreadPool& pool_;
  const int fd_;
  Device* const device_;
  const Verify verify_;
  Trace* const trace_;
  WeightStatistics& stats_;
  std::vector<bool> verified_;  // per block
  bool loaded_ = false;
};

}  // namespace flexgen
