// SPDX-License-Identifier: Apache-2.0
#include "flexgen/runtime/kv_store.h"

#include <set>

#include "support/errors.h"

using namespace flexgen;

namespace {

constexpr int64_t kLayers = 3, kPage = 32;
const KvLayout kLayout{DType::f32, 2, 16, kPage};  // 4 KiB pages

MicroBatch batch(SequenceId id, int64_t first, int64_t n) { return {{{id, std::vector<int32_t>(static_cast<size_t>(n)), first, n}}}; }

// marks every page of the sequence in every layer
void fill(KvStore& store, SequenceId id, int64_t first, int64_t n, int mark) {
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const KvView& v = store.acquire(layer, batch(id, first, n));
    for (int64_t p = 0; p < div_up(first + n, kPage); ++p) {
      std::memset(v.spans[0].k_pages[p], mark + static_cast<int>(layer), 16);
      std::memset(v.spans[0].v_pages[p], mark + 50 + static_cast<int>(layer), 16);
    }
    store.release(layer, batch(id, first, n));
  }
  store.commit(id, n);
}

}  // namespace

TEST_CASE("pages are added as a sequence grows and come back when it is dropped", "[runtime]") {
  KvStore store(kLayers, kLayout, 1_MiB);
  CHECK(store.pages_for(1) == 6);
  CHECK(store.pages_for(33) == 12);
  const SequenceId a = store.create(), b = store.create();
  fill(store, a, 0, 33, 1);
  fill(store, b, 0, 1, 20);
  CHECK(store.length(a) == 33);
  CHECK(store.pool().used_pages() == 18);
  const KvView& v = store.acquire(1, {{{a, {5}, 33, 0}, {b, {7, 8}, 1, 2}}});
  REQUIRE(v.spans.size() == 2);
  CHECK(v.spans[0].first_row == 0);
  CHECK(v.spans[1].first_row == 1);
  CHECK(v.spans[1].n_tok == 2);
  CHECK(static_cast<int>(v.spans[0].k_pages[1][0]) == 2);
  CHECK(static_cast<int>(v.spans[0].v_pages[0][0]) == 52);
  CHECK(static_cast<int>(v.spans[1].k_pages[0][0]) == 21);
  store.drop(a);
  CHECK(store.pool().used_pages() == 6);
  store.drop(b);
  CHECK(store.pool().used_pages() == 0);
}

TEST_CASE("uncommitted tokens vanish", "[runtime]") {
  KvStore store(kLayers, kLayout, 1_MiB);
  const SequenceId a = store.create();
  fill(store, a, 0, 32, 1);
  store.acquire(0, batch(a, 32, 40));
  CHECK(store.pool().used_pages() == 6 + 4);
  store.truncate(a, store.length(a));
  CHECK(store.pool().used_pages() == 6);
  CHECK(store.length(a) == 32);
  store.truncate(a, 10);
  CHECK(store.length(a) == 10);
  CHECK(store.pool().used_pages() == 6);
}

TEST_CASE("a fork shares full pages and copies the one that both will write to", "[runtime]") {
  KvStore store(kLayers, kLayout, 1_MiB);
  const SequenceId a = store.create();
  fill(store, a, 0, 70, 1);
  REQUIRE(store.pool().used_pages() == 18);
  const SequenceId b = store.fork(a);
  CHECK(store.length(b) == 70);
  CHECK(store.pool().used_pages() == 18 + 6);
  const KvView va = store.acquire(0, batch(a, 70, 1));
  std::vector<std::byte*> pages_a(va.spans[0].k_pages, va.spans[0].k_pages + 3);
  const KvView& vb = store.acquire(0, batch(b, 70, 1));
  CHECK(vb.spans[0].k_pages[0] == pages_a[0]);
  CHECK(vb.spans[0].k_pages[1] == pages_a[1]);
  CHECK(vb.spans[0].k_pages[2] != pages_a[2]);
  CHECK(std::memcmp(vb.spans[0].k_pages[2], pages_a[2], store.pool().page_bytes()) == 0);
  store.drop(a);
  CHECK(store.pool().used_pages() == 18);
  CHECK(static_cast<int>(store.acquire(0, batch(b, 70, 1)).spans[0].k_pages[0][0]) == 1);
  store.drop(b);
  CHECK(store.pool().used_pages() == 0);

  const SequenceId c = store.create();
  fill(store, c, 0, 64, 1);  // ends with a page: nothing to copy
  store.fork(c);
  CHECK(store.pool().used_pages() == 12);
}

TEST_CASE("the pool stays within its limit", "[runtime]") {
  PagePool pool(1000, 3);
  CHECK(pool.page_bytes() == 4096);
  std::set<PagePool::Page> pages{pool.allocate(), pool.allocate(), pool.allocate()};
  CHECK(pages.size() == 3);
  CHECK_FAULT(pool.allocate(), Fault::internal, "all 3 pages of the KV cache are in use");
  pool.retain(*pages.begin());
  CHECK(pool.shared(*pages.begin()));
  pool.release(*pages.begin());
  pool.release(*pages.begin());
  CHECK(pool.used_pages() == 2);
  CHECK(pool.allocate() == *pages.begin());
  CHECK_FAULT(KvStore(1, kLayout, 0).acquire(0, batch(9, 0, 1)), Fault::internal, "sequence 9");
}
