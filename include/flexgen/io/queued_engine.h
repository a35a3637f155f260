// SPDX-License-Identifier: Apache-2.0
// The engine over any backend: a queue in the order of submission, a cap on what is in flight, and what to do with each result that a
// backend reports. Large requests go in pieces, so that every request keeps the disk busy; each piece is resumed and retried alone.
//
//   result                     what happens
//   short, > 0                 the rest is asked for, from the last aligned offset
//   0                          a read has met the end of the file; a write fails with EIO
//   EINTR, EAGAIN              again, up to 64 times, after some other attempt has ended if one is under way
//   ENOMEM, EBUSY              the same, with half the depth, which recovers slowly
//   EIO, ENODATA, EILSEQ       twice more
//   anything else              the request fails with it
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/trace.h"
#include "flexgen/io/file.h"
#include "flexgen/io/flight_meter.h"
#include "flexgen/io/io_backend.h"
#include "flexgen/io/io_engine.h"

namespace flexgen {

// All that is in flight shares the disk, so more of it makes the first piece later and the last one no sooner. On a virtual NVMe disk
// (fio, io_uring, huge pages, three rounds) 1 MiB x 8 read 3.1, 3.5 and 2.4 GB/s, 2 MiB x 8 2.7, 2.8 and 1.6, 2 MiB x 32 1.9, 2.3 and 1.4.
struct QueueLimits {
  size_t bytes_in_flight = 8_MiB;
  size_t piece_bytes = 1_MiB;  // a multiple of kIoAlign
  int depth = 64;              // pieces in flight, at most IoBackend::kMostAttempts
};

class QueuedEngine final : public IoEngine {
 public:
  // trace outlives it
  explicit QueuedEngine(std::unique_ptr<IoBackend> backend, const QueueLimits& limits = {}, Trace* trace = nullptr, std::string note = {})
      : limits_(limits), trace_(trace), note_(std::move(note)), depth_(limits.depth), backend_(std::move(backend)) {
    FG_CHECK(limits.depth > 0 && static_cast<size_t>(limits.depth) <= IoBackend::kMostAttempts, "depth {}", limits.depth);
    FG_CHECK(limits.piece_bytes > 0 && limits.piece_bytes % kIoAlign == 0, "pieces of {} bytes", limits.piece_bytes);
    pieces_.resize(static_cast<size_t>(limits.depth));
    for (size_t i = pieces_.size(); i-- > 0;) free_pieces_.push_back(i);
    backend_->listen([this](uint64_t tag, int64_t result) { report(static_cast<size_t>(tag), result); });
  }
  QueuedEngine(const QueuedEngine&) = delete;
  QueuedEngine& operator=(const QueuedEngine&) = delete;
  ~QueuedEngine() override { drain(); }

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& r : requests) FG_CHECK(r.ticket && r.ticket->done(), "a request of {} bytes without a free ticket", r.bytes);
    std::lock_guard lock(mutex_);
    for (const IoRequest& r : requests) {
      r.ticket->start();
      ++pending_;
      size_t job = jobs_.size();
      if (free_jobs_.empty()) {
        jobs_.push_back({r});
      } else {
        job = free_jobs_.back();
        free_jobs_.pop_back();
        jobs_[job] = {r};
      }
      if (r.bytes > 0) queue_.push_back(job);
      else finish(job);
    }
    pump();
  }

  void drain() override {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return pending_ == 0; });
  }

  IoStatistics statistics() const override {
    std::lock_guard lock(mutex_);
    IoStatistics s = statistics_;
    flight_.add_to(s);
    return s;
  }

  std::string_view name() const override { return backend_->name(); }
  // what it does without and why, in one line; empty where nothing is missing
  const std::string& note() const { return note_; }
  int depth() const {  // now. thread: any
    std::lock_guard lock(mutex_);
    return depth_;
  }

 private:
  static constexpr int kPatience = 64, kIoRetries = 2, kLeastDepth = 2, kCalm = 64;  // attempts that end well before the depth grows by one

  struct Job {
    IoRequest request;
    size_t issued = 0;  // bytes in pieces
    int pieces = 0;     // not ended
    int error = 0;      // the first
    int64_t start_ns = 0;
  };
  struct Piece {
    size_t job = 0;
    size_t begin = 0, bytes = 0;  // within the request
    size_t done = 0;              // bytes from begin that need not be asked for again
    int patience = kPatience, io_retries = kIoRetries;
  };
  enum class Next { resume, wait, ended };

  // All below: mutex_ is held, but in report

  size_t pieces_in_flight() const { return pieces_.size() - free_pieces_.size(); }

  IoAttempt attempt(size_t piece) const {
    const Piece& p = pieces_[piece];
    const IoRequest& r = jobs_[p.job].request;
    const size_t at = p.begin + p.done;
    return {r.op, r.fd, r.offset + at, r.data + at, p.bytes - p.done, piece};
  }

  // Cuts pieces from the queue as far as the limits allow and starts them after what batch_ holds already
  void pump() {
    while (!queue_.empty() && !free_pieces_.empty() && pieces_in_flight() < static_cast<size_t>(depth_)) {
      Job& job = jobs_[queue_.front()];
      const size_t bytes = std::min(limits_.piece_bytes, job.request.bytes - job.issued);
      if (flight_.bytes() > 0 && flight_.bytes() + bytes > limits_.bytes_in_flight) break;
      if (job.issued == 0 && trace_) job.start_ns = monotonic_ns();
      const size_t piece = free_pieces_.back();
      free_pieces_.pop_back();
      pieces_[piece] = {queue_.front(), job.issued, bytes};
      flight_.begin(job.request.op, bytes);
      job.issued += bytes;
      ++job.pieces;
      batch_.push_back(attempt(piece));
      if (job.issued == job.request.bytes) queue_.pop_front();
    }
    if (batch_.empty()) return;
    under_way_ += batch_.size();
    backend_->start(batch_);
    batch_.clear();
  }

  // thread: the backend's
  void report(size_t piece, int64_t result) {
    std::lock_guard lock(mutex_);
    --under_way_;
    for (size_t i : waiting_) batch_.push_back(attempt(i));
    waiting_.clear();
    int error = 0;
    const Next next = settle(pieces_[piece], result, error);
    if (next == Next::ended) end(piece, error);
    else if (next == Next::wait && under_way_ + batch_.size() > 0) waiting_.push_back(piece);
    else batch_.push_back(attempt(piece));
    pump();
  }

  // What becomes of a piece after an attempt; error is set where it has ended badly
  Next settle(Piece& p, int64_t result, int& error) {
    const IoRequest& r = jobs_[p.job].request;
    const bool read = r.op == IoRequest::Op::read;
    if (result > 0) {
      if (depth_ < limits_.depth && ++calm_ >= kCalm) ++depth_, calm_ = 0;
      const size_t before = p.done;
      p.done = std::min(p.bytes, p.done + static_cast<size_t>(result));
      if (p.done == p.bytes) return Next::ended;
      ++statistics_.short_transfers;
      if ((r.offset | r.bytes | reinterpret_cast<uintptr_t>(r.data)) % kIoAlign == 0) p.done = p.done / kIoAlign * kIoAlign;
      if (p.done > before) return Next::resume;
      // less than a page: the file may end inside it
      if (struct stat st{}; read && ::fstat(r.fd, &st) == 0 && static_cast<uint64_t>(st.st_size) < r.offset + p.begin + p.bytes) {
        error = IoTicket::kEndOfFile;
        return Next::ended;
      }
      if (--p.patience >= 0) return Next::wait;
      error = EIO;
      return Next::ended;
    }
    error = result < 0 ? static_cast<int>(-result) : read ? IoTicket::kEndOfFile : EIO;
    int* patience = nullptr;
    if (result < 0) switch (error) {
        case ENOMEM:
        case EBUSY:
          depth_ = std::max(std::min(kLeastDepth, limits_.depth), depth_ / 2);
          calm_ = 0;
          [[fallthrough]];
        case EINTR:
        case EAGAIN: patience = &p.patience; break;
        case EIO:
        case ENODATA:
        case EILSEQ: patience = &p.io_retries; break;
        default: break;
      }
    if (!patience || --*patience < 0) return Next::ended;
    error = 0;
    ++statistics_.retries;
    return Next::wait;
  }

  void end(size_t piece, int error) {
    const Piece p = pieces_[piece];
    free_pieces_.push_back(piece);
    Job& job = jobs_[p.job];
    flight_.end(job.request.op, p.bytes);
    --job.pieces;
    if (error != 0 && job.error == 0) {
      job.error = error;
      if (!queue_.empty() && queue_.front() == p.job) queue_.pop_front();  // its other pieces are not wanted any more
      job.issued = job.request.bytes;
    }
    if (job.pieces == 0 && job.issued == job.request.bytes) finish(p.job);
  }

  void finish(size_t index) {
    const Job& job = jobs_[index];
    const IoRequest& r = job.request;
    const bool read = r.op == IoRequest::Op::read;
    ++(read ? statistics_.reads : statistics_.writes);
    if (job.error != 0) ++statistics_.errors;
    else (read ? statistics_.bytes_read : statistics_.bytes_written) += r.bytes;
    if (trace_ && r.bytes > 0)
      trace_->add({read ? TraceEvent::Kind::read : TraceEvent::Kind::write, r.what, r.layer, r.micro_batch, r.bytes, job.start_ns, monotonic_ns()});
    r.ticket->finish(job.error);
    free_jobs_.push_back(index);
    if (--pending_ == 0) idle_.notify_all();
  }

  const QueueLimits limits_;
  Trace* const trace_;
  const std::string note_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::deque<Job> jobs_;  // those in free_jobs_ are not in use
  std::vector<size_t> free_jobs_;
  std::deque<size_t> queue_;  // jobs with bytes that are in no piece yet; only the first may have begun
  std::vector<Piece> pieces_;
  std::vector<size_t> free_pieces_;
  std::vector<size_t> waiting_;   // pieces to try again when an attempt ends
  std::vector<IoAttempt> batch_;  // to be started
  size_t pending_ = 0;            // requests
  size_t under_way_ = 0;          // attempts
  int depth_, calm_ = 0;
  FlightMeter flight_;  // of pieces
  IoStatistics statistics_;

  std::unique_ptr<IoBackend> backend_;  // ends first: its threads use all of the above
};

}  // namespace flexgen
