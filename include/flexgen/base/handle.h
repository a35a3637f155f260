// SPDX-License-Identifier: Apache-2.0
// Owner of a C handle: move-only, closes once. Traits name the type, the empty value and the closing function.
#pragma once

#include <unistd.h>

#include <utility>

namespace flexgen {

template <typename Traits>
class Handle {
 public:
  using Type = typename Traits::Type;
  Handle() = default;
  explicit Handle(Type h) : h_(h) {}
  Handle(Handle&& o) noexcept : h_(o.release()) {}
  Handle& operator=(Handle&& o) noexcept {
    if (this != &o) reset(o.release());
    return *this;
  }
  ~Handle() { reset(); }

  Type get() const { return h_; }
  explicit operator bool() const { return h_ != Traits::null(); }
  Type release() { return std::exchange(h_, Traits::null()); }
  void reset(Type h = Traits::null()) {
    if (h_ != Traits::null()) Traits::close(h_);
    h_ = h;
  }

 private:
  Type h_ = Traits::null();
};

struct FdTraits {
  using Type = int;
  static constexpr int null() { return -1; }
  static void close(int fd) noexcept { ::close(fd); }
};
using Fd = Handle<FdTraits>;

}  // namespace flexgen
