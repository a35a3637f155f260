// SPDX-License-Identifier: Apache-2.0
// Streams and events of a fake card. Nothing runs when it is given: what runs when is chosen to hurt, within what streams and events
// allow.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "support/operands.h"

namespace flexgen::testing {

enum class Lateness {
  late,    // only what somebody waits for, when he waits; the first question whether it is done gets a no
  early,   // at once
  random,  // heads of any streams, now and then at each call
};

// thread: one at a time
class FakeStreams {
 public:
  using Handle = void*;  // never used twice
  using Work = std::function<void()>;

  FakeStreams(Lateness lateness, uint64_t seed) : lateness_(lateness), random_(seed) {}

  Handle create_stream() { return add(streams_); }
  Handle create_event(bool timed) {
    const Handle h = add(events_);
    events_.at(h).timed = timed;
    return h;
  }
  void destroy_stream(Handle h) {
    stream(h);
    try {
      run_all(h);
    } catch (...) {  // error() has it
    }
    streams_.erase(h);
  }
  void destroy_event(Handle h) {
    event(h);
    events_.erase(h);
  }

  void give(Handle h, Work work) { push(h, {std::move(work), nullptr, nullptr}); }
  void record(Handle e, Handle h) {
    stream(h);
    event(e).last = std::make_shared<Record>(Record{h, false, false, 0});
    push(h, {nullptr, event(e).last, nullptr});
  }
  void wait(Handle e, Handle h) {
    stream(h);
    if (const auto& last = event(e).last; last && !last->done) push(h, {nullptr, nullptr, last});
  }

  // Has it happened? Asking makes it happen in the end
  bool done(Handle e) {
    const auto last = event(e).last;
    if (!last || last->done) return true;
    if (lateness_ == Lateness::late ? !std::exchange(last->asked, true) : random_.below(2) == 0) return false;
    run_to(last);
    return true;
  }
  void synchronize(Handle e) {
    if (const auto last = event(e).last) run_to(last);
  }
  void run_all(Handle h) {
    stream(h);
    while (!stream(h).empty()) run_head(h);
  }
  // Before each call: some heads of any streams, where that is wanted
  void run_some() {
    while (lateness_ == Lateness::random && random_.below(2) == 0) {
      std::vector<Handle> heads;
      for (const auto& [h, queue] : streams_)
        if (!queue.empty() && ready(queue.front())) heads.push_back(h);
      if (heads.empty()) return;
      run_head(heads[static_cast<size_t>(random_.below(static_cast<int64_t>(heads.size())))]);
    }
  }
  // After each call: all there is, where that is wanted. What waits, waits for what was given before, and that has run
  void run_given() {
    if (lateness_ != Lateness::early) return;
    for (auto& [h, queue] : streams_)
      while (!queue.empty()) run_head(h);
  }

  // Every piece of work takes a microsecond
  double seconds_between(Handle from, Handle to) {
    const Event &a = event(from), &b = event(to);
    FG_CHECK(a.timed && b.timed && a.last && b.last && a.last->done && b.last->done, "events that are not timed or have not happened");
    return (static_cast<double>(b.last->time) - static_cast<double>(a.last->time)) * 1e-6;
  }

  // What work threw. Nothing runs any more
  const std::exception_ptr& error() const { return error_; }
  void stop(std::exception_ptr error) {
    if (!error_) error_ = std::move(error);
    for (auto& [h, queue] : streams_) queue.clear();
  }
  size_t streams() const { return streams_.size(); }
  size_t events() const { return events_.size(); }
  size_t waiting() const {  // pieces of work, records and waits
    size_t n = 0;
    for (const auto& [h, queue] : streams_) n += queue.size();
    return n;
  }

 private:
  struct Record {
    Handle stream;
    bool done, asked;
    uint64_t time;
  };
  struct Item {  // one of the three
    Work work;
    std::shared_ptr<Record> record, wait;
  };
  struct Event {
    bool timed = false;
    std::shared_ptr<Record> last;
  };
  using Queue = std::deque<Item>;

  template <typename T>
  Handle add(std::map<Handle, T>& to) {
    next_ += 16;
    const Handle h = reinterpret_cast<Handle>(next_);
    to.emplace(h, T{});
    return h;
  }
  Queue& stream(Handle h) {
    const auto found = streams_.find(h);
    FG_CHECK(found != streams_.end(), "{} is no stream of this card, or was destroyed", h);
    return found->second;
  }
  Event& event(Handle h) {
    const auto found = events_.find(h);
    FG_CHECK(found != events_.end(), "{} is no event of this card, or was destroyed", h);
    return found->second;
  }
  void push(Handle h, Item item) { stream(h).push_back(std::move(item)); }

  static bool ready(const Item& item) { return !item.wait || item.wait->done; }
  void run_to(const std::shared_ptr<Record>& record) {
    while (!record->done) run_head(record->stream);
  }
  void run_head(Handle h) {
    while (!ready(stream(h).front())) run_to(std::shared_ptr(stream(h).front().wait));
    const Item item = std::move(stream(h).front());
    stream(h).pop_front();
    if (item.record) item.record->done = true, item.record->time = time_;
    if (!item.work) return;
    ++time_;
    try {
      item.work();
    } catch (...) {
      stop(std::current_exception());
      throw;
    }
  }

  Lateness lateness_;
  Random random_;
  std::map<Handle, Queue> streams_;
  std::map<Handle, Event> events_;
  uintptr_t next_ = 0x1000;
  uint64_t time_ = 0;
  std::exception_ptr error_;
};

}  // namespace flexgen::testing
