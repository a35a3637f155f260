// SPDX-License-Identifier: Apache-2.0
#include "flexgen/memory/slot_pool.h"

#include <type_traits>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

static_assert(!std::is_copy_constructible_v<Slot> && std::is_nothrow_move_constructible_v<Slot> && std::is_nothrow_move_assignable_v<Slot>);

TEST_CASE("slots are equal, apart, and come back when their owner ends", "[memory]") {
  std::vector<std::byte> memory(1000);
  SlotPool pool(memory, 300);
  CHECK(pool.n_slots() == 3);
  CHECK(pool.slot_bytes() == 300);
  {
    std::vector<Slot> slots;
    for (size_t i = 0; i < 3; ++i) {
      slots.push_back(pool.take());
      REQUIRE(slots.back());
      CHECK(slots.back().data() == memory.data() + i * 300);
    }
    CHECK(pool.n_free() == 0);
    CHECK_FALSE(pool.take());
    std::byte* const second = slots[1].data();
    slots[1].reset();
    slots[1].reset();  // nothing to give back any more
    CHECK(pool.n_free() == 1);
    CHECK(pool.take().data() == second);
    slots[0] = std::move(slots[2]);  // gives its own back
    CHECK(slots[0].data() == memory.data() + 600);
    CHECK_FALSE(slots[2]);
    CHECK(pool.n_free() == 2);
    Slot& same = slots[0];
    slots[0] = std::move(same);
    CHECK(slots[0].data() == memory.data() + 600);
  }
  CHECK(pool.n_free() == 3);
}

TEST_CASE("the slot given back last is taken first", "[memory]") {
  std::vector<std::byte> memory(64);
  SlotPool pool(memory, 8);
  Slot a = pool.take(), b = pool.take();
  std::byte* const last = a.data();
  b.reset();
  a.reset();
  CHECK(pool.take().data() == last);
}

TEST_CASE("memory smaller than a slot makes an empty pool, slots of nothing are a bug", "[memory]") {
  std::vector<std::byte> memory(7);
  SlotPool pool(memory, 8);
  CHECK(pool.n_slots() == 0);
  CHECK_FALSE(pool.take());
  CHECK_FAULT(SlotPool(memory, 0), Fault::internal, "slots of 0 bytes");
}
