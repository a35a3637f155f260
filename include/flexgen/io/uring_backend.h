// SPDX-License-Identifier: Apache-2.0
// io_uring on a thread of its own, which sleeps in one place: in the ring, where a read of an eventfd wakes it for new work. Whatever
// the kernel does not give is done without: set-up flags are stripped one by one, fixed buffers and files are tried once.
#pragma once

#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <future>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/handle.h"
#include "flexgen/io/io_backend.h"

namespace flexgen {

struct UringOptions {
  std::span<std::byte> memory;  // transfers within it go through fixed buffers; it outlives the backend. May be empty
  std::vector<int> files;       // transfers with these descriptors go through fixed files; they stay open as long as the backend
};

class UringBackend final : public IoBackend {
 public:
  // throws std::system_error with the errno of a set-up that is refused: EPERM, ENOSYS, ...
  explicit UringBackend(UringOptions options = {}) : options_(std::move(options)), wake_(::eventfd(0, EFD_CLOEXEC)) {
    if (!wake_) throw std::system_error(errno, std::generic_category(), "eventfd");
    std::promise<int> ready;
    std::future<int> result = ready.get_future();
    // with SINGLE_ISSUER the ring belongs to the thread that makes it
    thread_ = start_io_thread([this, ready = std::move(ready)]() mutable {
      const int error = set_up();
      ready.set_value(error);
      if (error != 0) return;
      run();
      ::io_uring_queue_exit(&ring_);
    });
    if (const int error = result.get(); error != 0) {
      thread_.join();
      throw std::system_error(error, std::generic_category(), "io_uring_setup");
    }
  }
  UringBackend(const UringBackend&) = delete;
  UringBackend& operator=(const UringBackend&) = delete;
  ~UringBackend() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake();
    thread_.join();
  }

  void listen(Report report) override { report_ = std::move(report); }

  void start(std::span<const IoAttempt> attempts) override {
    bool asleep = false;
    {
      std::lock_guard lock(mutex_);
      queue_.insert(queue_.end(), attempts.begin(), attempts.end());
      asleep = std::exchange(asleep_, false);
    }
    if (asleep) wake();
  }

  std::string_view name() const override { return "io_uring"; }
  std::string note() const override { return note_; }
  size_t fixed_buffers() const { return n_slabs_; }
  size_t fixed_files() const { return n_files_; }

 private:
  static constexpr unsigned kEntries = kMostAttempts + 1;  // and the read that wakes
  static constexpr size_t kSlab = 1_GiB;                   // the kernel's limit for one fixed buffer
  static constexpr uint64_t kWakeTag = ~uint64_t{0};

  // on the ring's thread; 0 or an errno
  int set_up() {
    constexpr std::array<unsigned, 4> kLadder{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                                              IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0};
    int error = 0;
    for (const unsigned flags : kLadder) {
      error = -::io_uring_queue_init(kEntries, &ring_, flags);
      if (error != EINVAL) break;  // an older kernel does not know a flag
    }
    if (error != 0) return error;
    error = probe();
    if (error != 0) {
      ::io_uring_queue_exit(&ring_);
      return error;
    }
    register_memory();
    if (!options_.files.empty()) {
      const int n = ::io_uring_register_files(&ring_, options_.files.data(), static_cast<unsigned>(options_.files.size()));
      if (n == 0) n_files_ = options_.files.size();
      else add_note("files are not fixed", -n);
    }
    return 0;
  }

  // Reads 4 KiB through the new ring: what lets a ring be made may still forbid its use. 0 or an errno
  int probe() {
    const Fd file(::memfd_create("flexgen-probe", MFD_CLOEXEC));
    if (!file || ::ftruncate(file.get(), 4096) != 0) return 0;
    std::array<std::byte, 4096> page;
    io_uring_sqe* sqe = next_sqe();
    if (!sqe) return EBUSY;
    ::io_uring_prep_read(sqe, file.get(), page.data(), page.size(), 0);
    int n = 0;
    do n = ::io_uring_submit_and_wait(&ring_, 1);
    while (n == -EINTR);
    if (n < 0) return -n;
    io_uring_cqe* cqe = nullptr;
    if (n = ::io_uring_peek_cqe(&ring_, &cqe); n < 0) return -n;
    const int result = cqe->res;
    ::io_uring_cqe_seen(&ring_, cqe);
    return result == static_cast<int>(page.size()) ? 0 : result < 0 ? -result : EIO;
  }

  void register_memory() {
    std::vector<iovec> slabs;
    for (size_t at = 0; at < options_.memory.size(); at += kSlab)
      slabs.push_back({options_.memory.data() + at, std::min<size_t>(kSlab, options_.memory.size() - at)});
    if (slabs.empty()) return;
    const int n = ::io_uring_register_buffers(&ring_, slabs.data(), static_cast<unsigned>(slabs.size()));
    if (n == 0) n_slabs_ = slabs.size();
    else add_note(n == -ENOMEM ? "buffers are not fixed, which RLIMIT_MEMLOCK is too low for" : "buffers are not fixed", -n);
  }

  void add_note(std::string_view what, int error) { note_ += fmt::format("{}{} ({})", note_.empty() ? "" : "; ", what, std::strerror(error)); }

  void run() {
    std::vector<IoAttempt> fresh;
    bool armed = false, stop = false;
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        std::swap(fresh, queue_);
        stop = stop_;
        asleep_ = true;  // whoever adds work from here on wakes us
      }
      if (stop && fresh.empty() && in_kernel_.empty()) return;
      if (!armed) armed = prepare_wake();
      for (const IoAttempt& a : fresh) prepare(a);
      fresh.clear();
      const int n = ::io_uring_submit_and_wait(&ring_, 1);
      {
        std::lock_guard lock(mutex_);
        asleep_ = false;
      }
      armed = reap() && armed;
      if (n >= 0 || n == -EINTR) continue;
      if (n != -EAGAIN && n != -EBUSY) return give_up(-n);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the kernel lacks memory at the moment; what was not taken is submitted again
    }
  }

  io_uring_sqe* next_sqe() {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    // the queue has room for every attempt that may be under way
    if (!sqe) ::io_uring_submit(&ring_), sqe = ::io_uring_get_sqe(&ring_);
    return sqe;
  }

  bool prepare_wake() {
    io_uring_sqe* sqe = next_sqe();
    if (!sqe) return false;
    ::io_uring_prep_read(sqe, wake_.get(), &wake_count_, sizeof wake_count_, 0);
    ::io_uring_sqe_set_data64(sqe, kWakeTag);
    return true;
  }

  void prepare(const IoAttempt& a) {
    io_uring_sqe* sqe = next_sqe();
    if (!sqe) {
      report_(a.tag, -EBUSY);
      return;
    }
    const auto bytes = static_cast<unsigned>(std::min<size_t>(a.bytes, 1_GiB));  // more is a short transfer
    const bool read = a.op == IoRequest::Op::read;
    const size_t at = reinterpret_cast<uintptr_t>(a.data) - reinterpret_cast<uintptr_t>(options_.memory.data());  // huge if below
    if (n_slabs_ > 0 && at < options_.memory.size() && bytes <= options_.memory.size() - at && at / kSlab == (at + bytes - 1) / kSlab) {
      const int slab = static_cast<int>(at / kSlab);
      if (read) ::io_uring_prep_read_fixed(sqe, a.fd, a.data, bytes, a.offset, slab);
      else ::io_uring_prep_write_fixed(sqe, a.fd, a.data, bytes, a.offset, slab);
    } else if (read) {
      ::io_uring_prep_read(sqe, a.fd, a.data, bytes, a.offset);
    } else {
      ::io_uring_prep_write(sqe, a.fd, a.data, bytes, a.offset);
    }
    if (n_files_ > 0) {
      const auto found = std::find(options_.files.begin(), options_.files.end(), a.fd);
      if (found != options_.files.end()) {
        sqe->fd = static_cast<int>(found - options_.files.begin());
        sqe->flags |= IOSQE_FIXED_FILE;
      }
    }
    ::io_uring_sqe_set_data64(sqe, a.tag);
    in_kernel_.push_back(a.tag);
  }

  // reports all that has ended; false where the read that wakes was among it
  bool reap() {
    bool armed = true;
    for (;;) {
      std::array<io_uring_cqe*, 32> cqes;
      const unsigned n = ::io_uring_peek_batch_cqe(&ring_, cqes.data(), cqes.size());
      if (n == 0) return armed;
      std::array<std::pair<uint64_t, int>, 32> ended;
      for (unsigned i = 0; i < n; ++i) ended[i] = {cqes[i]->user_data, cqes[i]->res};
      ::io_uring_cq_advance(&ring_, n);
      for (unsigned i = 0; i < n; ++i) {
        const auto [tag, result] = ended[i];
        if (tag == kWakeTag) {
          armed = false;
          continue;
        }
        in_kernel_.erase(std::find(in_kernel_.begin(), in_kernel_.end(), tag));
        report_(tag, result);
      }
    }
  }

  // The ring is of no use any more (EBADR: completions were lost): what was and what will be started fails
  void give_up(int error) {
    std::vector<uint64_t> lost = std::exchange(in_kernel_, {});
    for (;;) {
      for (const uint64_t tag : lost) report_(tag, -error);
      lost.clear();
      bool stop = false;
      {
        std::lock_guard lock(mutex_);
        for (const IoAttempt& a : queue_) lost.push_back(a.tag);
        queue_.clear();
        stop = stop_;
        asleep_ = true;
      }
      if (lost.empty() && stop) return;
      if (lost.empty() && ::read(wake_.get(), &wake_count_, sizeof wake_count_) < 0 && errno != EINTR) return;
    }
  }

  void wake() const {
    const uint64_t one = 1;
    while (::write(wake_.get(), &one, sizeof one) < 0 && errno == EINTR) {}
  }

  const UringOptions options_;
  Report report_;
  const Fd wake_;

  std::mutex mutex_;
  std::vector<IoAttempt> queue_;
  bool asleep_ = false, stop_ = false;

  // written by the ring's thread alone, the first three before the constructor ends
  std::string note_;
  size_t n_slabs_ = 0, n_files_ = 0;
  io_uring ring_{};
  std::vector<uint64_t> in_kernel_;  // tags
  uint64_t wake_count_ = 0;

  std::thread thread_;
};

}  // namespace flexgen
