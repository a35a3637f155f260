// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/trace.h"

#include <string>
#include <thread>

#include "support/catch.h"

using namespace flexgen;
using Kind = TraceEvent::Kind;

TEST_CASE("a trace keeps what every thread recorded, each thread's in order", "[base]") {
  constexpr size_t kThreads = 4, kEach = 3 * Trace::kChunkEvents + 17;
  Trace trace;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&trace, t] {
      for (size_t i = 0; i < kEach; ++i) trace.add({.layer = static_cast<int32_t>(t), .bytes = i});
    });
  for (int i = 0; i < 10; ++i) (void)trace.events();  // looking at it disturbs nobody
  for (std::thread& t : threads) t.join();
  std::array<uint64_t, kThreads> next{};
  trace.for_each([&](const TraceEvent& e) { REQUIRE(e.bytes == next[static_cast<size_t>(e.layer)]++); });
  for (const uint64_t n : next) CHECK(n == kEach);
  CHECK(trace.dropped() == 0);
}

TEST_CASE("a thread may record into several traces in turn", "[base]") {
  Trace a, b;
  for (int i = 0; i < 10'000; ++i) (i % 2 ? a : b).add({.layer = i});
  CHECK(a.events().size() == 5'000);
  CHECK(b.events().size() == 5'000);
  CHECK(a.events()[4'999].layer == 9'999);
  for (int round = 0; round < 3; ++round) {  // at the same address, but another trace
    Trace again;
    again.add({.layer = round});
    REQUIRE(again.events().size() == 1);
    CHECK(again.events()[0].layer == round);
  }
}

TEST_CASE("a full trace counts what it does not keep", "[base]") {
  Trace trace(Trace::kChunkEvents + 1);  // two pieces of memory
  for (size_t i = 0; i < 2 * Trace::kChunkEvents + 5; ++i) trace.add({});
  CHECK(trace.events().size() == 2 * Trace::kChunkEvents);
  CHECK(trace.dropped() == 5);
  std::thread([&] { trace.add({}); }).join();
  CHECK(trace.dropped() == 6);
}

TEST_CASE("a trace takes no more memory than it is limited to", "[base]") {
  Trace trace;
  CHECK(trace.most_bytes() > 4'000'000 * sizeof(TraceEvent));
  trace.limit(1'000'000);
  CHECK(trace.most_bytes() <= 1'000'000);
  for (int i = 0; i < 100'000; ++i) trace.add({});
  CHECK(trace.events().size() * sizeof(TraceEvent) <= 1'000'000);
  CHECK(trace.events().size() + trace.dropped() == 100'000);
  trace.limit(2'000'000);
  CHECK(trace.most_bytes() <= 1'000'000);
}

TEST_CASE("a span is the time between its construction and its end; without a trace it is nothing", "[base]") {
  Trace trace;
  const int64_t before = monotonic_ns();
  {
    const TraceSpan outer(&trace, Kind::read, "weights", 3, 1, 4096);
    const TraceSpan none(nullptr, Kind::read, "weights");
    CHECK(trace.events().empty());
  }
  const auto events = trace.events();
  REQUIRE(events.size() == 1);
  CHECK(events[0].kind == Kind::read);
  CHECK(events[0].what == std::string("weights"));
  CHECK(events[0].layer == 3);
  CHECK(events[0].micro_batch == 1);
  CHECK(events[0].bytes == 4096);
  CHECK(events[0].start_ns >= before);
  CHECK(events[0].end_ns >= events[0].start_ns);
  CHECK(events[0].end_ns <= monotonic_ns());
}

TEST_CASE("a timed span adds its time with and without a trace", "[base]") {
  Trace trace;
  const int64_t start = monotonic_ns();
  double seconds = 0;
  for (Trace* t : {&trace, static_cast<Trace*>(nullptr)}) {
    const double before = seconds;
    {
      const TimedSpan timed(seconds, t, Kind::wait, "disk", 3, 1, 4096);
      for (const int64_t begin = monotonic_ns(); monotonic_ns() == begin;) {
      }
    }
    CHECK(seconds > before);
  }
  CHECK(seconds <= static_cast<double>(monotonic_ns() - start) * 1e-9);
  const auto events = trace.events();
  REQUIRE(events.size() == 1);
  CHECK(events[0].micro_batch == 1);
  CHECK(events[0].bytes == 4096);
}
