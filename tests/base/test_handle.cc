// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/handle.h"

#include <fcntl.h>

#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

namespace {

std::vector<int> closed;

struct LoggedTraits {
  using Type = int;
  static constexpr int null() { return 0; }
  static void close(int h) noexcept { closed.push_back(h); }
};
using Logged = Handle<LoggedTraits>;

}  // namespace

static_assert(!std::is_copy_constructible_v<Fd> && !std::is_copy_assignable_v<Fd>);
static_assert(std::is_nothrow_move_constructible_v<Fd> && std::is_nothrow_move_assignable_v<Fd>);

TEST_CASE("a handle closes what it owns exactly once", "[base]") {
  closed.clear();
  {
    Logged empty;
    CHECK_FALSE(empty);
    Logged a(1);
    CHECK(a);
    Logged b(std::move(a));
    CHECK_FALSE(a);
    CHECK(b.get() == 1);
    Logged c(2);
    c = std::move(b);  // closes 2
    CHECK(closed == std::vector<int>{2});
    CHECK(c.get() == 1);
    Logged& same = c;
    c = std::move(same);
    CHECK(c.get() == 1);
    c.reset(3);  // closes 1
    CHECK(closed == std::vector<int>{2, 1});
    CHECK(c.release() == 3);  // now ours
    CHECK_FALSE(c);
    c.reset(4);
  }
  CHECK(closed == std::vector<int>{2, 1, 4});
}

TEST_CASE("a file descriptor is closed with its owner", "[base]") {
  int fd = -1;
  {
    Fd owner(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    REQUIRE(owner);
    fd = owner.get();
    CHECK(::fcntl(fd, F_GETFD) != -1);
  }
  CHECK(::fcntl(fd, F_GETFD) == -1);
}
