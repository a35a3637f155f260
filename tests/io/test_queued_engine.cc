// SPDX-License-Identifier: Apache-2.0
#include "flexgen/io/queued_engine.h"

#include <functional>
#include <map>

#include "flexgen/io/thread_backend.h"
#include "support/errors.h"
#include "support/io_files.h"

using namespace flexgen;

namespace {

// A device that does nothing until the test says what came of an attempt
class ScriptedBackend final : public IoBackend {
 public:
  void listen(Report report) override { report_ = std::move(report); }
  void start(std::span<const IoAttempt> attempts) override {
    for (const IoAttempt& a : attempts) {
      history.push_back(a);
      under_way.push_back(a);
    }
  }
  std::string_view name() const override { return "scripted"; }

  // ends the attempt that was started index-th of those under way
  void end(int64_t result, size_t index = 0) {
    const IoAttempt a = under_way.at(index);
    under_way.erase(under_way.begin() + static_cast<std::ptrdiff_t>(index));
    report_(a.tag, result);
  }
  // all under way, and what follows from them, succeed
  void end_all() {
    while (!under_way.empty()) end(static_cast<int64_t>(under_way[0].bytes));
  }

  std::vector<IoAttempt> history, under_way;

 private:
  Report report_;
};

struct Scripted {
  explicit Scripted(const QueueLimits& limits = {}, Trace* trace = nullptr) {
    auto owned = std::make_unique<ScriptedBackend>();
    device = owned.get();
    engine = std::make_unique<QueuedEngine>(std::move(owned), limits, trace);
  }
  ~Scripted() { device->end_all(); }

  IoRequest read(size_t bytes, IoTicket& ticket, uint64_t offset = 0) {
    return {IoRequest::Op::read, fd, offset, memory.data() + offset, bytes, &ticket};
  }
  IoRequest write(size_t bytes, IoTicket& ticket) { return {IoRequest::Op::write, fd, 0, memory.data(), bytes, &ticket}; }

  testing::TempDir dir;
  File file = File::open(dir.write("f", std::string(1_MiB, 'x')));
  int fd = file.fd();
  Buffer memory{64_MiB};
  ScriptedBackend* device = nullptr;
  std::unique_ptr<QueuedEngine> engine;
};

void submit(Scripted& s, const IoRequest& r) { s.engine->submit({&r, 1}); }

}  // namespace

TEST_CASE("requests start in order, as many as the caps allow, large ones in pieces", "[io]") {
  Scripted s({.bytes_in_flight = 16_MiB, .piece_bytes = 2_MiB, .depth = 64});
  std::deque<IoTicket> tickets(12);
  std::vector<IoRequest> requests;
  for (size_t i = 0; i < 2; ++i) requests.push_back(s.read(5_MiB, tickets[i], i * 5_MiB));
  for (size_t i = 2; i < 12; ++i) requests.push_back(s.read(1_MiB, tickets[i], 10_MiB + i * 1_MiB));
  s.engine->submit(requests);
  const auto sizes = [&] {
    std::vector<uint64_t> mib;
    for (const IoAttempt& a : s.device->history) mib.push_back(a.bytes / 1_MiB);
    return mib;
  };
  CHECK(sizes() == std::vector<uint64_t>{2, 2, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1});  // 16 MiB
  CHECK(s.device->history[4].offset == 7_MiB);
  CHECK(s.device->history[4].data == s.memory.data() + 7_MiB);
  CHECK_FALSE(tickets[0].done());
  s.device->end(2_MiB, 1);  // any order
  CHECK(s.device->history.size() == 14);
  CHECK_FALSE(tickets[0].done());
  s.device->end(1_MiB, 1);
  CHECK_FALSE(tickets[0].done());
  s.device->end(2_MiB, 0);
  CHECK(tickets[0].done());
  CHECK(tickets[0].error() == 0);
  s.device->end_all();
  s.engine->drain();
  for (const IoTicket& t : tickets) CHECK((t.done() && t.error() == 0));
  const IoStatistics statistics = s.engine->statistics();
  CHECK(statistics.reads == 12);
  CHECK(statistics.writes == 0);
  CHECK(statistics.bytes_read == 20_MiB);
  CHECK(statistics.short_transfers == 0);
  CHECK(statistics.retries == 0);
  CHECK(statistics.errors == 0);
  CHECK(statistics.busy_s > 0);
}

TEST_CASE("small requests go to the full depth, and one larger than the cap goes alone", "[io]") {
  Scripted s({.bytes_in_flight = 1_MiB, .piece_bytes = 2_MiB, .depth = 32});
  std::deque<IoTicket> tickets(42);
  for (size_t i = 0; i < 40; ++i) submit(s, s.read(4096, tickets[i]));
  CHECK(s.device->under_way.size() == 32);
  submit(s, s.read(4_MiB, tickets[40]));
  submit(s, s.read(4096, tickets[41]));
  for (int i = 0; i < 39; ++i) s.device->end(4096);
  CHECK(s.device->under_way.size() == 1);
  s.device->end(4096);
  REQUIRE(s.device->under_way.size() == 1);
  CHECK(s.device->under_way[0].bytes == 2_MiB);
  s.device->end_all();
  for (const IoTicket& t : tickets) CHECK(t.done());
}

TEST_CASE("a short transfer goes on from the last aligned offset", "[io]") {
  Scripted s;
  IoTicket ticket;
  submit(s, s.read(65536, ticket, 4096));
  s.device->end(10'000);
  REQUIRE(s.device->under_way.size() == 1);
  CHECK(s.device->under_way[0].offset == 4096 + 8192);
  CHECK(s.device->under_way[0].bytes == 65536 - 8192);
  CHECK(s.device->under_way[0].data == s.memory.data() + 4096 + 8192);
  s.device->end(100);  // not a page further, but the file does not end here
  CHECK(s.device->under_way[0].offset == 4096 + 8192);
  s.device->end(65536 - 8192);
  CHECK(ticket.error() == 0);
  CHECK(ticket.done());
  CHECK(s.engine->statistics().short_transfers == 2);
  // what is not aligned goes on from where it stopped
  submit(s, s.read(1000, ticket, 3));
  s.device->end(10);
  CHECK(s.device->under_way[0].offset == 13);
  s.device->end(990);
  CHECK(ticket.error() == 0);
}

TEST_CASE("the end of the file before the end of the request", "[io]") {
  Scripted s;
  IoTicket ticket;
  submit(s, s.read(65536, ticket, 1_MiB - 4096));
  s.device->end(4096);
  CHECK_FALSE(ticket.done());
  s.device->end(0);
  CHECK(ticket.error() == IoTicket::kEndOfFile);
  submit(s, s.read(65536, ticket, 1_MiB - 4096));
  s.device->end(100);  // ends inside a page
  CHECK(ticket.error() == IoTicket::kEndOfFile);
  CHECK(ticket.done());
  submit(s, s.write(4096, ticket));
  s.device->end(0);
  CHECK(ticket.error() == EIO);
  CHECK(s.engine->statistics().errors == 3);
  CHECK(s.engine->statistics().reads == 2);
  CHECK(s.engine->statistics().writes == 1);
  CHECK(s.engine->statistics().bytes_read == 0);
}

TEST_CASE("what a device says is tried again as often as it deserves", "[io]") {
  const auto [error, times] = GENERATE(std::pair{EINTR, 64}, std::pair{EAGAIN, 64}, std::pair{ENOMEM, 64}, std::pair{EBUSY, 64}, std::pair{EIO, 2},
                                       std::pair{ENODATA, 2}, std::pair{EILSEQ, 2}, std::pair{ENOSPC, 0}, std::pair{EINVAL, 0}, std::pair{EBADF, 0});
  CAPTURE(error);
  Scripted s;
  IoTicket ticket;
  submit(s, s.write(8192, ticket));
  for (int i = 0; i < times; ++i) {
    s.device->end(-error);
    REQUIRE_FALSE(ticket.done());
  }
  CHECK(s.engine->statistics().retries == static_cast<uint64_t>(times));
  s.device->end(-error);
  REQUIRE(ticket.done());
  CHECK(ticket.error() == error);
  CHECK(s.engine->statistics().errors == 1);
  CHECK(s.device->history.size() == static_cast<size_t>(times) + 1);
  // and is done when it succeeds at the last try
  submit(s, s.write(8192, ticket));
  for (int i = 0; i < times; ++i) s.device->end(-error);
  s.device->end(8192);
  CHECK(ticket.error() == 0);
  CHECK(s.engine->statistics().bytes_written == 8192);
}

TEST_CASE("reads that never get further than part of a page end", "[io]") {
  Scripted s;
  IoTicket ticket;
  submit(s, s.read(8192, ticket));
  for (int i = 0; i < 64; ++i) {
    s.device->end(5);
    REQUIRE_FALSE(ticket.done());
  }
  s.device->end(5);
  CHECK(ticket.error() == EIO);
}

TEST_CASE("EAGAIN is tried again only after another attempt has ended", "[io]") {
  Scripted s;
  IoTicket a, b;
  submit(s, s.read(4096, a));
  submit(s, s.read(4096, b, 4096));
  s.device->end(-EAGAIN);
  CHECK(s.device->history.size() == 2);
  s.device->end(4096);
  CHECK(b.done());
  REQUIRE(s.device->history.size() == 3);
  CHECK(s.device->under_way[0].offset == 0);
  s.device->end(4096);
  CHECK(a.error() == 0);
}

TEST_CASE("too much at once halves the depth, which comes back slowly", "[io]") {
  Scripted s({.depth = 8});
  std::deque<IoTicket> tickets(700);
  for (IoTicket& t : tickets) submit(s, s.read(4096, t));
  CHECK(s.device->under_way.size() == 8);
  s.device->end(-ENOMEM);
  CHECK(s.engine->depth() == 4);
  s.device->end(-EBUSY);
  CHECK(s.engine->depth() == 2);
  s.device->end(-EBUSY);
  CHECK(s.engine->depth() == 2);  // no less
  size_t most = 0;
  for (int i = 0; i < 64; ++i) {
    if (i >= 16) most = std::max(most, s.device->under_way.size());  // what was too much has ended by then
    s.device->end(4096);
  }
  CHECK(most == 2);
  CHECK(s.engine->depth() == 3);
  s.device->end_all();
  CHECK(s.engine->depth() == 8);
  for (const IoTicket& t : tickets) CHECK(t.error() == 0);
}

TEST_CASE("a request that fails starts no further pieces and ends after those under way", "[io]") {
  Scripted s({.bytes_in_flight = 4_MiB, .piece_bytes = 2_MiB, .depth = 4});
  IoTicket bad, good;
  submit(s, s.read(20_MiB, bad));
  submit(s, s.read(4096, good));
  CHECK(s.device->under_way.size() == 2);
  s.device->end(-EINVAL, 1);
  CHECK_FALSE(bad.done());
  REQUIRE(s.device->history.size() == 3);
  CHECK(s.device->history[2].bytes == 4096);
  s.device->end(-ENOSPC, 0);
  CHECK(bad.done());
  CHECK(bad.error() == EINVAL);  // the first
  s.device->end(4096);
  CHECK(good.error() == 0);
}

TEST_CASE("a request for nothing is done at once; one without a free ticket is a bug", "[io]") {
  Scripted s;
  IoTicket ticket;
  submit(s, s.read(0, ticket));
  CHECK(ticket.done());
  s.engine->drain();
  submit(s, s.read(4096, ticket));
  CHECK_FAULT(submit(s, s.read(4096, ticket)), Fault::internal, "a request of 4096 bytes without a free ticket");
  IoRequest none = s.read(1, ticket);
  none.ticket = nullptr;
  CHECK_FAULT(submit(s, none), Fault::internal, "without a free ticket");
  CHECK_FAULT(QueuedEngine(std::make_unique<ScriptedBackend>(), {.depth = 0}), Fault::internal, "depth 0");
  CHECK_FAULT(QueuedEngine(std::make_unique<ScriptedBackend>(), {.piece_bytes = 1000}), Fault::internal, "pieces of 1000 bytes");
}

TEST_CASE("time is counted while anything is read, written or either", "[io]") {
  Scripted s;
  IoTicket first, second;
  CHECK(s.engine->statistics().busy_s == 0);
  submit(s, s.read(1_MiB, first, 8_MiB));
  submit(s, s.write(1_MiB, second));
  s.device->end(1_MiB);  // the read
  const double reading = s.engine->statistics().reading_s;
  CHECK(reading > 0);
  s.device->end(1_MiB);
  const IoStatistics done = s.engine->statistics();
  CHECK(done.reading_s == reading);
  CHECK(done.writing_s > 0);
  CHECK(done.busy_s >= std::max(done.reading_s, done.writing_s));
  CHECK(done.busy_s <= done.reading_s + done.writing_s);
  CHECK(done.byte_seconds == Approx((done.reading_s + done.writing_s) * 1_MiB));
  CHECK(s.engine->statistics().busy_s == done.busy_s);
}

TEST_CASE("each request leaves its row in the trace", "[io]") {
  Trace trace;
  Scripted s({}, &trace);
  IoTicket a, b;
  IoRequest r = s.read(5_MiB, a);
  r.layer = 3;
  r.what = "fc1";
  submit(s, r);
  IoRequest w = s.write(4096, b);
  w.micro_batch = 2;
  w.what = "kv";
  submit(s, w);
  s.device->end_all();
  const std::vector<TraceEvent> events = trace.events();
  REQUIRE(events.size() == 2);
  CHECK(events[0].kind == TraceEvent::Kind::read);
  CHECK(events[0].what == std::string("fc1"));
  CHECK(events[0].layer == 3);
  CHECK(events[0].bytes == 5_MiB);
  CHECK(events[1].kind == TraceEvent::Kind::write);
  CHECK(events[1].micro_batch == 2);
  for (const TraceEvent& e : events) CHECK((e.start_ns > 0 && e.end_ns >= e.start_ns));
}

TEST_CASE("threads read and write what is in the file, and a truncated file is told", "[io]") {
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(9_MiB + 8192);
  QueuedEngine engine(std::make_unique<ThreadBackend>());
  const Fd out = testing::open_direct(dir / "f", O_RDWR | O_CREAT);
  testing::write_all(engine, out.get(), content);
  CHECK(engine.name() == "threads");
  CHECK(testing::read_all(engine, out.get(), content.size()) == content);
  CHECK(engine.statistics().bytes_written == content.size());
  CHECK(engine.statistics().bytes_read == content.size());
  REQUIRE(::ftruncate(out.get(), 5_MiB + 100) == 0);
  int error = 0;
  testing::read_all(engine, out.get(), content.size(), &error);
  CHECK(error == IoTicket::kEndOfFile);
}

TEST_CASE("an engine that ends finishes what was submitted", "[io]") {
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(8_MiB);
  const File file = File::open(dir.write("f", content));
  const Buffer buffer(content.size());
  std::deque<IoTicket> tickets(64);
  {
    QueuedEngine engine(std::make_unique<ThreadBackend>());
    std::vector<IoRequest> requests;
    for (size_t i = 0; i < 64; ++i) requests.push_back({IoRequest::Op::read, file.fd(), i * 131072, buffer.data() + i * 131072, 131072, &tickets[i]});
    engine.submit(requests);
  }
  for (const IoTicket& t : tickets) CHECK((t.done() && t.error() == 0));
  CHECK(std::memcmp(buffer.data(), content.data(), content.size()) == 0);
}

TEST_CASE("requests may come from several threads", "[io]") {
  const testing::TempDir dir;
  const std::string content = testing::random_bytes(4_MiB);
  const File file = File::open(dir.write("f", content));
  QueuedEngine engine(std::make_unique<ThreadBackend>());
  std::vector<std::thread> threads;
  std::array<bool, 4> same{};
  for (size_t i = 0; i < same.size(); ++i)
    threads.emplace_back([&, i] { same[i] = testing::read_all(engine, file.fd(), content.size()) == content; });
  for (std::thread& t : threads) t.join();
  for (const bool s : same) CHECK(s);
  CHECK(engine.statistics().bytes_read == same.size() * content.size());
}
