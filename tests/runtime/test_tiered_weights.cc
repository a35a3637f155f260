// SPDX-License-Identifier: Apache-2.0
// Weights over memory and disk: the same bytes wherever they lie, whatever the ring, whatever was broken off; damage is found.
#include "flexgen/runtime/tiered_weights.h"

#include <cstring>
#include <fstream>

#include "support/errors.h"
#include "support/streamed_model.h"

using namespace flexgen;
using testing::OwnWeights;
using testing::StreamedModel;

namespace {

// all matrices of the program in order, and those of its head
struct Order {
  std::vector<TensorRef> body, head;
  explicit Order(const Program& p) {
    for (const Step& s : p.body)
      for (const Operation& op : s.operations)
        if (op.kind == Operation::Kind::linear) body.push_back(*op.weight);
    for (const Operation& op : p.head.operations)
      if (op.kind == Operation::Kind::linear) head.push_back(*op.weight);
  }
  SweepOrder order(size_t passes) const { return {body, head, passes}; }
};

// what the view's blocks hold, against the file
void check_blocks(const StreamedModel& m, TensorRef ref, size_t first, const WeightView& w) {
  const FileTensor& t = file_tensor(m.file(), ref);
  for (size_t i = 0; i < w.blocks.size(); ++i) {
    const FileBlock& b = m.file().blocks()[t.first_block + first + i];
    const size_t bytes = static_cast<size_t>(w.blocks[i].rows) * t.row_bytes();
    std::vector<std::byte> want(bytes);
    m.file().file().read(b.offset, want);
    REQUIRE(std::memcmp(w.blocks[i].data, want.data(), bytes) == 0);
  }
}

void sweep(const StreamedModel& m, TieredWeights& w, const Order& order, size_t passes, size_t at_once) {
  w.begin_sweep(order.order(passes));
  const auto go = [&](TensorRef t) {
    for (size_t first = 0; first < w.n_blocks(t); first += at_once) {
      const size_t last = std::min(first + at_once, w.n_blocks(t));
      check_blocks(m, t, first, w.acquire(t, first, last));
      w.release(t, first, last);
    }
  };
  for (const TensorRef t : order.body) go(t);
  for (size_t p = 0; p < passes; ++p)
    for (const TensorRef t : order.head) go(t);
}

void flip(const std::string& path, uint64_t at) {
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  f.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(f.get() ^ 16);
  f.seekp(static_cast<std::streamoff>(at));
  f.put(byte);
}

}  // namespace

TEST_CASE("blocks are what the file holds, for any share, ring and number of passes", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  const Order order(m.program());
  ThreadPool pool(2);
  const auto io = testing::thread_engine();
  for (const double share : {0.0, 0.4, 1.0})
    for (const bool look_ahead : {true, false})
      for (const size_t slots : {size_t{4}, size_t{7}, size_t{5000}}) {
        CAPTURE(share, look_ahead, slots);
        OwnWeights w(m, WeightPlacement::of_share(m.file(), m.program(), share), slots, 4, *io, pool,
                     {.verify = Verify::always, .look_ahead = look_ahead});
        uint64_t head = 0, body = 0;
        for (const size_t passes : {1, 0, 3}) {
          sweep(m, *w.weights, order, passes, 4);
          for (const TensorRef t : order.body) body += file_tensor(m.file(), t).bytes;
          for (const TensorRef t : order.head) head += passes * file_tensor(m.file(), t).bytes;
        }
        const WeightStatistics& s = w.weights->statistics();
        CHECK(s.reread_blocks == 0);
        CHECK(s.resident_bytes <= body + head);
        if (share == 1.0) CHECK((s.streamed_bytes == 0 && s.resident_bytes == body + head && s.loaded_bytes == m.file().weight_bytes()));
        if (!look_ahead) CHECK(s.streamed_bytes + s.resident_bytes == body + head);
        if (look_ahead) CHECK(s.streamed_bytes + s.resident_bytes >= body + head);  // the next sweep's beginning is there already
        CHECK(s.streamed_bytes + s.resident_bytes <= body + head + slots * TieredWeights::slot_bytes(m.file()));
      }
}

TEST_CASE("a step's matrices can be held and taken again; a sweep that was broken off is forgotten", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/prenorm-f16-bin"));
  const Order order(m.program());
  ThreadPool pool(1);
  const auto io = testing::thread_engine();
  OwnWeights own(m, WeightPlacement::of_share(m.file(), m.program(), 0), 2000, 4, *io, pool);
  TieredWeights& w = *own.weights;
  w.begin_sweep(order.order(1));
  const TensorRef a = order.body[0], b = order.body[1];
  w.acquire(a, 0, w.n_blocks(a));
  w.acquire(b, 0, w.n_blocks(b));
  for (int again = 0; again < 2; ++again) {
    check_blocks(m, a, 0, w.acquire(a, 0, 2));
    w.release(a, 0, 2);
  }
  check_blocks(m, b, 0, w.acquire(b, 0, w.n_blocks(b)));
  w.release(b, 0, w.n_blocks(b));
  // neither a nor b is given back: broken off
  sweep(m, w, order, 1, 4);
  w.begin_sweep(order.order(2));
  sweep(m, w, order, 2, 3);
  Order reversed = order;
  std::reverse(reversed.body.begin(), reversed.body.end());
  sweep(m, w, reversed, 1, 4);
  sweep(m, w, order, 1, 4);
  CHECK_FAULT(w.acquire(order.body[2], 0, 1), Fault::internal, "was not announced next");
  OwnWeights small(m, WeightPlacement::of_share(m.file(), m.program(), 0), 2, 4, *io, pool);
  small.weights->begin_sweep(order.order(1));
  CHECK_FAULT(small.weights->acquire(a, 0, w.n_blocks(a)), Fault::internal, "2 slots are too few");
}

TEST_CASE("single rows of an embedding come from memory and from disk", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/head128-bf16-sharded"));
  ThreadPool pool(2);
  const auto io = testing::thread_engine();
  const TensorRef tokens = *m.program().body.front().operations.front().weight;
  const FileTensor& t = m.tokens();
  std::vector<int32_t> ids{7, 3, 3, 0, static_cast<int32_t>(t.shape[0] - 1), 200, 201, 202, 5, 130, 90, 91, 92};
  for (const double share : {0.0, 0.5, 1.0})
    for (const Verify verify : {Verify::first, Verify::always, Verify::off}) {
      CAPTURE(share, static_cast<int>(verify));
      OwnWeights own(m, WeightPlacement::of_share(m.file(), m.program(), share), 8, static_cast<int64_t>(ids.size()), *io, pool, {.verify = verify});
      for (int again = 0; again < 3; ++again) {
        const WeightView w = own.weights->acquire_rows(tokens, ids);
        for (const int32_t id : ids) {
          const RowBlock& block = row_block(w, id);
          std::vector<std::byte> want(t.row_bytes());
          const auto per = t.rows_per_block;
          m.file().file().read(
              m.file().blocks()[t.first_block + static_cast<size_t>(id / per)].offset + static_cast<uint64_t>(id % per) * t.row_bytes(), want);
          REQUIRE(std::memcmp(block.data + static_cast<uint64_t>(id - block.first_row) * t.row_bytes(), want.data(), want.size()) == 0);
        }
        own.weights->release_rows(tokens);
        std::rotate(ids.begin(), ids.begin() + 3, ids.end());
      }
      // positions are always there
      CHECK(own.weights->acquire_rows(*m.program().body.front().operations.back().weight, ids).blocks.size() ==
            m.file().find("embed.positions")->n_blocks);
    }
}

TEST_CASE("a flipped bit in any block is found: at the start, or when it is streamed", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/postnorm-proj-f16"));
  const Order order(m.program());
  ThreadPool pool(2);
  const auto io = testing::thread_engine();
  for (const double share : {0.0, 1.0})
    for (size_t b = 0; b < m.file().blocks().size(); b += FLEXGEN_SANITIZED ? 17 : 3) {
      CAPTURE(share, b);
      const uint64_t at = m.file().blocks()[b].offset + m.file().blocks()[b].bytes * 2 / 3;
      flip(m.path(), at);
      const auto run = [&] {
        OwnWeights w(m, WeightPlacement::of_share(m.file(), m.program(), share), 16, 4, *io, pool, {.verify = Verify::always});
        sweep(m, *w.weights, order, 1, 4);
      };
      CHECK_FAULT(run(), Fault::damaged, "weights damaged: " + m.file().block_owner(b) + ", block " + std::to_string(b));
      flip(m.path(), at);
    }
  // hashes are compared once, always, or never
  OwnWeights first(m, WeightPlacement::of_share(m.file(), m.program(), 0), 16, 4, *io, pool, {.look_ahead = false});
  OwnWeights always(m, WeightPlacement::of_share(m.file(), m.program(), 0), 16, 4, *io, pool, {.verify = Verify::always, .look_ahead = false});
  OwnWeights off(m, WeightPlacement::of_share(m.file(), m.program(), 0), 16, 4, *io, pool, {.verify = Verify::off, .look_ahead = false});
  const auto go = [&](TieredWeights& w) {
    w.begin_sweep(order.order(1));
    for (const TensorRef t : order.body)
      for (size_t i = 0; i < w.n_blocks(t); ++i) w.acquire(t, i, i + 1), w.release(t, i, i + 1);
    for (const TensorRef t : order.head)
      for (size_t i = 0; i < w.n_blocks(t); ++i) w.acquire(t, i, i + 1), w.release(t, i, i + 1);
  };
  go(*first.weights);
  go(*always.weights);
  const size_t block = file_tensor(m.file(), order.body[3]).first_block;
  flip(m.path(), m.file().blocks()[block].offset);
  CHECK_NOTHROW(go(*first.weights));
  CHECK_FAULT(go(*always.weights), Fault::damaged, "weights damaged: tensor '");
  CHECK_NOTHROW(go(*off.weights));
}

TEST_CASE("what the disk refuses names tensor, block and offset", "[runtime]") {
  const StreamedModel m(testing::test_data("golden/postnorm-proj-f16"));
  ThreadPool pool(1);
  const auto io = testing::thread_engine();
  const WeightPlacement all = WeightPlacement::of_share(m.file(), m.program(), 1);
  const Fd nothing(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  CHECK_FAULT(OwnWeights(m, all, 0, 4, *io, pool, {.fd = nothing.get()}), Fault::io, "Bad file descriptor. Check the disk");
  const Fd empty(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  CHECK_FAULT(OwnWeights(m, all, 0, 4, *io, pool, {.fd = empty.get()}), Fault::damaged, "truncated while in use");
  const std::atomic<bool> stop{true};
  CHECK_FAULT(OwnWeights(m, all, 0, 4, *io, pool, {.stop = &stop}), Fault::interrupted, "stopped while loading");
}
