// SPDX-License-Identifier: Apache-2.0
// An I/O engine whose requests read into a device's memory and write from it. What a request names in a file lies in host memory (an
// extent), or in the file itself, which another engine reads and writes. Only pinned extents are copied from and to as they are; all else
// passes through a slot of pinned memory:
//
//   read    pinned extent -----------------------------------------> copy to the device -> done
//           file -------> a slot is free -> disk reads ----> hash -> copy to the device -> done, slot free
//           pageable ---> a slot is free -> memory copy ---> hash -> copy to the device -> done, slot free
//   write   pinned extent -> copy from the device -> done
//           file -------> a slot is free -> copy from the device -> hash -> disk writes -> done, slot free
//           pageable ---> a slot is free -> copy from the device -> hash -> memory copy -> done, slot free
//
// - A ticket is done when the bytes are where they belong. Errors of the disk are passed on. One of the device is IoTicket::kDevice, for
//   that request and for all that follow; rethrow() has what the device said. What the requests named may then be touched until the
//   engine has gone; tickets end, drain() and the destructor return.
// - Copies come after everything that the compute stream had been given when the request was submitted: kernels that read what will be
//   overwritten, or write what will be copied. When a ticket is done, kernels that use the data may follow on that stream. submit gives
//   the compute stream work (an event), so that nobody else may do so at the same time.
// - The hash of a request is that of its content as it passed through its slot; what lies in a pinned extent is not hashed, and *hash stays.
// - Each direction has its own stream and its own slots, so that neither waits for the other. Copies from and to pinned extents are given
//   to the stream at once, however many there are.
// - Requests whose data is elsewhere go to the disk's engine as they are, and are that engine's to count.
#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/io/belt.h"
#include "flexgen/io/copy_stream.h"
#include "flexgen/io/device_failure.h"
#include "flexgen/io/file.h"
#include "flexgen/io/flight_meter.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/io/moments.h"
#include "flexgen/memory/device.h"

namespace flexgen {

// This part of a file lies in host memory instead and never touches the disk
struct HostExtent {
  int fd = -1;
  uint64_t offset = 0;
  std::span<std::byte> memory;
  bool pinned = true;
};

// All that it names outlives the engine
struct DeviceIoOptions {
  Device& device;
  Device::Stream compute;                           // uses what requests move
  std::vector<std::span<std::byte>> device_memory;  // a request's data lies in one of them wholly, or in none
  IoEngine* disk = nullptr;                         // for what lies in files; null where all is in extents
  std::span<std::byte> bounce = {};                 // pinned, on kIoAlign; at least two slots where anything needs them
  size_t slot_bytes = 0;                            // a multiple of kIoAlign, and the most that a request through a slot moves
  std::vector<HostExtent> resident = {};            // by fd and offset; a request lies in one of them wholly, or in none
  Trace* trace = nullptr;
};

// Since the engine was made
struct DeviceIoStatistics {
  CopyStatistics to_device, from_device;
  uint64_t slot_waits = 0;  // requests that found no free slot
};

class DeviceIoEngine final : public IoEngine {
 public:
  explicit DeviceIoEngine(DeviceIoOptions options)
      : options_(std::move(options)),
        moments_(options_.device, options_.compute),
        to_device_(options_.device, failure_, [this](DeviceCopy& copy) { copied_to_device(static_cast<Job&>(copy)); }),
        from_device_(options_.device, failure_, [this](DeviceCopy& copy) { copied_from_device(static_cast<Job&>(copy)); }) {
    const auto place = [](const HostExtent& e) { return std::pair(e.fd, e.offset); };
    for (size_t i = 1; i < options_.resident.size(); ++i) {
      const HostExtent &a = options_.resident[i - 1], &b = options_.resident[i];
      FG_CHECK(place(a) < place(b) && (a.fd != b.fd || a.offset + a.memory.size() <= b.offset), "extents {} and {}", i - 1, i);
    }
    if (!options_.disk && std::all_of(options_.resident.begin(), options_.resident.end(), [](const HostExtent& e) { return e.pinned; })) return;
    const size_t slot_bytes = options_.slot_bytes, n = slot_bytes > 0 ? options_.bounce.size() / slot_bytes : 0;
    FG_CHECK(n >= 2 && (reinterpret_cast<uintptr_t>(options_.bounce.data()) | slot_bytes) % kIoAlign == 0, "{} slots of {} bytes", n, slot_bytes);
    const size_t for_writes = std::max(n / 4, std::min<size_t>(4, n / 2));
    for (size_t i = n; i-- > 0;) (i < for_writes ? out_ : in_).free_slots.push_back(options_.bounce.data() + i * slot_bytes);
    written_.emplace([this](Job* job) { written_to_disk(*job); });
    filled_.emplace([this](Job* job) { fill_slot(*job); });
  }
  DeviceIoEngine(const DeviceIoEngine&) = delete;
  DeviceIoEngine& operator=(const DeviceIoEngine&) = delete;
  ~DeviceIoEngine() override { drain(); }

  void submit(std::span<const IoRequest> requests) override {
    size_t mine = 0;
    for (const IoRequest& r : requests) mine += check(r) ? 1 : 0;
    if (requests.empty()) return;
    if (mine == 0) return options_.disk->submit(requests);
    Moments::Moment* const now = begin(requests, mine);
    std::vector<IoRequest> others;
    std::array<size_t, 2> queued{};
    for (const IoRequest& r : requests) {
      if (!on_device(r)) {
        others.push_back(r);
        continue;
      }
      Lane& l = lane(r);
      const HostExtent* const extent = resident(r);
      std::unique_lock lock(l.mutex);
      Job& job = l.take();
      job.request = r;
      job.bytes = r.bytes;
      job.after = now;
      job.in_memory = extent ? extent->memory.data() + (r.offset - extent->offset) : nullptr;
      if (extent && extent->pinned) {
        lock.unlock();
        start(job, job.in_memory);
        copies(r).give(job);
      } else {
        l.waiting.push_back(&job);
        ++queued[&l == &out_];
      }
    }
    for (Lane* const l : {&in_, &out_}) {
      if (queued[l == &out_] == 0) continue;
      std::lock_guard lock(l->mutex);
      pump(*l);
      l->slot_waits += std::min(queued[l == &out_], l->waiting.size());
    }
    if (!others.empty()) options_.disk->submit(others);
  }

  // does not throw
  void drain() override {
    {
      std::unique_lock lock(mutex_);
      idle_.wait(lock, [this] { return pending_ == 0; });
    }
    if (options_.disk) options_.disk->drain();
  }

  // The device's error, where it had one. thread: any
  void rethrow() const override { failure_.rethrow(); }

  IoStatistics statistics() const override {
    std::lock_guard lock(mutex_);
    IoStatistics s = statistics_;
    flight_.add_to(s);
    return s;
  }
  DeviceIoStatistics device_statistics() const {  // thread: any
    DeviceIoStatistics s{to_device_.statistics(), from_device_.statistics(), 0};
    for (const Lane* const l : {&in_, &out_}) {
      std::lock_guard lock(l->mutex);
      s.slot_waits += l->slot_waits;
    }
    return s;
  }
  std::string_view name() const override { return "device"; }
  bool hashes() const override { return true; }

 private:
  // A request while it is pending
  struct Job : DeviceCopy {
    IoRequest request;
    std::byte* in_memory = nullptr;  // where an extent has its bytes; null: on disk
    std::byte* slot = nullptr;       // its own; null: a pinned extent has its bytes, or it waits for one
    IoTicket disk;                   // of the slot's reading or writing
  };
  // The requests of one direction
  struct Lane {
    mutable std::mutex mutex;
    std::vector<std::byte*> free_slots;
    std::deque<Job*> waiting;  // for a slot
    std::deque<Job> jobs;      // those in free_jobs are not in use
    std::vector<Job*> free_jobs;
    std::vector<IoRequest> requests;  // scratch: to the disk
    std::vector<Job*> filling;        // scratch: whose slots are read into
    uint64_t slot_waits = 0;

    Job& take() {
      if (free_jobs.empty()) return jobs.emplace_back();
      Job& job = *free_jobs.back();
      free_jobs.pop_back();
      return job;
    }
  };

  static bool is_read(const IoRequest& r) { return r.op == IoRequest::Op::read; }
  Lane& lane(const IoRequest& r) { return is_read(r) ? in_ : out_; }
  CopyStream& copies(const IoRequest& r) { return is_read(r) ? to_device_ : from_device_; }

  bool on_device(const IoRequest& r) const {
    return std::any_of(options_.device_memory.begin(), options_.device_memory.end(), [&](std::span<std::byte> m) {
      return r.bytes > 0 && r.data + r.bytes > m.data() && r.data < m.data() + m.size();
    });
  }
  // in which the request's part of the file lies; null: on disk
  const HostExtent* resident(const IoRequest& r) const {
    const auto after = std::upper_bound(options_.resident.begin(), options_.resident.end(), std::pair(r.fd, r.offset),
                                        [](const auto& place, const HostExtent& e) { return place < std::pair(e.fd, e.offset); });
    FG_CHECK(after == options_.resident.end() || after->fd != r.fd || r.bytes <= after->offset - r.offset, "{} bytes at {} reach into an extent",
             r.bytes, r.offset);
    if (after == options_.resident.begin()) return nullptr;
    const HostExtent& e = *std::prev(after);
    if (e.fd != r.fd || r.offset - e.offset >= e.memory.size()) return nullptr;
    FG_CHECK(r.bytes <= e.memory.size() - (r.offset - e.offset), "{} bytes at {} leave an extent", r.bytes, r.offset);
    return &e;
  }
  // whether it is one for the device
  bool check(const IoRequest& r) const {
    FG_CHECK(r.ticket && r.ticket->done(), "a request of {} bytes without a free ticket", r.bytes);
    if (!on_device(r)) {
      FG_CHECK(options_.disk && (!r.hash || options_.disk->hashes()), "{} bytes of host memory", r.bytes);
      return false;
    }
    FG_CHECK(std::any_of(options_.device_memory.begin(), options_.device_memory.end(),
                         [&](std::span<std::byte> m) { return r.data >= m.data() && r.bytes <= m.size() - static_cast<size_t>(r.data - m.data()); }),
             "{} bytes are partly on the device", r.bytes);
    const HostExtent* const extent = resident(r);
    FG_CHECK((extent && extent->pinned) || ((extent || options_.disk) && r.bytes <= options_.slot_bytes), "{} bytes through a slot of {}", r.bytes,
             options_.slot_bytes);
    return true;
  }

  // The device's requests are pending from now on, `mine` of them; what they come after, or null where the device has failed
  Moments::Moment* begin(std::span<const IoRequest> requests, size_t mine) {
    {
      std::lock_guard lock(mutex_);
      for (const IoRequest& r : requests)
        if (on_device(r)) r.ticket->start();
      pending_ += mine;
    }
    if (!failure_.seen()) try {
        return moments_.record(mine);
      } catch (...) {
        failure_.keep_caught();
      }
    return nullptr;
  }

  // bytes go from or to that host memory
  void start(Job& job, std::byte* host) {
    const IoRequest& r = job.request;
    job.to = is_read(r) ? r.data : host;
    job.from = is_read(r) ? host : r.data;
    std::lock_guard lock(mutex_);
    flight_.begin(r.op, r.bytes);
  }

  // Starts what waits for slots, as far as there are any. l.mutex is held
  void pump(Lane& l) {
    while (!l.waiting.empty() && !l.free_slots.empty()) {
      Job& job = *l.waiting.front();
      l.waiting.pop_front();
      job.slot = l.free_slots.back();
      l.free_slots.pop_back();
      start(job, job.slot);
      if (is_read(job.request) && !failure_.seen()) {
        if (!job.in_memory) l.requests.push_back(through_slot(job));
        l.filling.push_back(&job);
      } else {
        copies(job.request).give(job);  // which ends it where the device has failed
      }
    }
    if (!l.requests.empty()) options_.disk->submit(l.requests);
    for (Job* const job : l.filling) filled_->push(job);
    l.requests.clear();
    l.filling.clear();
  }

  // the request, between its file and its slot
  static IoRequest through_slot(Job& job) {
    IoRequest r = job.request;
    r.data = job.slot;
    r.ticket = &job.disk;
    r.hash = nullptr;
    return r;
  }

  // --- on their threads: what becomes of a job after a stage

  void fill_slot(Job& job) {
    if (job.in_memory) std::memcpy(job.slot, job.in_memory, job.request.bytes);
    else if (const int error = job.disk.wait(); error != 0) return finish(job, error);
    hash(job);
    to_device_.give(job);
  }
  void copied_to_device(Job& job) {
    trace(job);
    finish(job, job.done ? 0 : IoTicket::kDevice);
  }
  void copied_from_device(Job& job) {
    trace(job);
    if (!job.done || !job.slot) return finish(job, job.done ? 0 : IoTicket::kDevice);
    hash(job);
    if (job.in_memory) {
      std::memcpy(job.in_memory, job.slot, job.request.bytes);
      return finish(job, 0);
    }
    const IoRequest write = through_slot(job);
    options_.disk->submit({&write, 1});
    written_->push(&job);
  }
  void written_to_disk(Job& job) { finish(job, job.disk.wait()); }

  static void hash(const Job& job) {
    const IoRequest& r = job.request;
    if (r.hash) *r.hash = XXH3_64bits_withSeed(job.slot, r.bytes, r.seed);
  }

  void trace(const Job& job) {
    if (!options_.trace || !job.done) return;
    const IoRequest& r = job.request;
    options_.trace->add({is_read(r) ? TraceEvent::Kind::copy_in : TraceEvent::Kind::copy_out, r.what, r.layer, r.micro_batch, r.bytes, job.start_ns,
                         job.end_ns});
  }

  void finish(Job& job, int error) {
    const IoRequest r = job.request;
    if (job.after) moments_.release(std::exchange(job.after, nullptr));
    {
      Lane& l = lane(r);
      std::lock_guard lock(l.mutex);
      if (job.slot) l.free_slots.push_back(std::exchange(job.slot, nullptr));
      l.free_jobs.push_back(&job);
      pump(l);
    }
    std::lock_guard lock(mutex_);
    flight_.end(r.op, r.bytes);
    ++(is_read(r) ? statistics_.reads : statistics_.writes);
    if (error != 0) ++statistics_.errors;
    else (is_read(r) ? statistics_.bytes_read : statistics_.bytes_written) += r.bytes;
    r.ticket->finish(error);
    if (--pending_ == 0) idle_.notify_all();
  }

  const DeviceIoOptions options_;
  DeviceFailure failure_;
  Moments moments_;

  mutable std::mutex mutex_;  // taken last
  std::condition_variable idle_;
  size_t pending_ = 0;
  IoStatistics statistics_;
  FlightMeter flight_;

  Lane in_, out_;

  // They use all of the above; each ends before those that it hands jobs to
  std::optional<Belt<Job*>> written_;  // waits for writes to the disk
  CopyStream to_device_, from_device_;
  std::optional<Belt<Job*>> filled_;  // waits for reads from the disk, and copies from pageable memory
};

}  // namespace flexgen
