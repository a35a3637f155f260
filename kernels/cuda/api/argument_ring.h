// SPDX-License-Identifier: Apache-2.0
// Small arrays of the host that kernels read: tables of pages, rows, items. Each call writes its arrays into pinned memory and copies them
// to the device on the stream of its kernels. Both memories are cut into the same pieces, which are used in turn. A piece of the host's is
// written again when an event says that its copies are done; the device's needs none, since copies and kernels are of one stream.
//
// Nothing is allocated, and the host waits only if it is a whole ring ahead of the device.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "flexgen/base/checked.h"
#include "flexgen/memory/device.h"

namespace flexgen::cuda {

// thread: one at a time
class ArgumentRing {
 public:
  static constexpr size_t kPieces = 4;
  static constexpr size_t kAlignment = 16;  // of an array

  // Bytes of a ring whose calls have at most so many. An array takes what array_bytes says.
  static constexpr size_t bytes(size_t of_a_call) { return kPieces * round_up(of_a_call, size_t{1024}); }
  template <typename T>
  static constexpr size_t array_bytes(size_t n) {
    return round_up(n * sizeof(T), kAlignment);
  }

  // Pinned memory of the host and the device's, of one size, which bytes() gave
  ArgumentRing(Device& device, Device::Stream stream, std::span<std::byte> host, std::span<std::byte> there)
      : device_(device), stream_(stream), host_(host), there_(there), piece_(host.size() / kPieces),
        done_{DeviceEvent(device), DeviceEvent(device), DeviceEvent(device), DeviceEvent(device)} {
    FG_CHECK(host.size() == there.size(), "{} bytes of the host, {} of the device", host.size(), there.size());
  }

  template <typename T>
  struct Array {
    T* host;         // to be filled before the call's arrays are sent
    const T* there;  // for kernels that are given to the stream after that
  };

  // The arrays of one call
  class Call {
   public:
    template <typename T>
    Array<T> array(size_t n) {
      const size_t at = used_;
      used_ += array_bytes<T>(n);
      FG_CHECK(used_ <= bytes_, "{} bytes of arguments, {} were announced", used_, bytes_);
      return {reinterpret_cast<T*>(host_ + at), reinterpret_cast<const T*>(there_ + at)};
    }

   private:
    friend class ArgumentRing;
    std::byte* host_ = nullptr;
    std::byte* there_ = nullptr;
    size_t bytes_ = 0, used_ = 0;
  };

  Call begin(size_t bytes) {
    FG_CHECK(bytes <= piece_, "{} bytes of arguments in a call, {} of them are the most", bytes, piece_);
    if (used_ + bytes > piece_) next_piece();
    Call c;
    c.host_ = host_.data() + at_ * piece_ + used_;
    c.there_ = there_.data() + at_ * piece_ + used_;
    c.bytes_ = bytes;
    used_ += bytes;
    return c;
  }
  void send(const Call& c) {
    if (c.used_ > 0) device_.copy(c.there_, c.host_, c.used_, stream_);
  }

 private:
  void next_piece() {
    device_.record(done_[at_], stream_);
    at_ = (at_ + 1) % kPieces;
    if (!device_.done(done_[at_])) device_.synchronize(done_[at_]);
    used_ = 0;
  }

  Device& device_;
  Device::Stream stream_;
  std::span<std::byte> host_, there_;
  size_t piece_;  // bytes
  size_t at_ = 0, used_ = 0;
  std::array<DeviceEvent, kPieces> done_;  // all copies from a piece
};

}  // namespace flexgen::cuda
