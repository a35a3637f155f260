// SPDX-License-Identifier: Apache-2.0
// What the planted-bug tests share: how a broken kernel may be found out, and buffers whose overrun harms only the result.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/emu/emulator.h"
#include "support/catch.h"

namespace flexgen::testing {

// Elements [0, n) are registered with the session; the margin behind them is not, and must stay as it is
template <typename T>
class GuardedBuffer {
 public:
  static constexpr size_t kMargin = 16384;

  GuardedBuffer(emu::Session& session, size_t n, T fill, std::string name) : n_(n), values_(n + kMargin, fill) {
    session.add(values_.data(), n * sizeof(T), std::move(name));
  }
  T* data() { return values_.data(); }
  size_t size() const { return n_; }
  T& operator[](size_t i) { return values_[i]; }
  const T& operator[](size_t i) const { return values_[i]; }
  bool margin_is(T fill) const {
    for (size_t i = n_; i < values_.size(); ++i)
      if (!(values_[i] == fill)) return false;
    return true;
  }

 private:
  size_t n_;
  std::vector<T> values_;
};

struct Outcome {
  bool right = false;                   // the launch ended and its result is right
  std::optional<emu::Problem> problem;  // or the emulator stopped it
  std::string message;
  emu::Statistics statistics;
};

// run(session) launches and says whether the result is right
inline Outcome attempt(const emu::Options& options, const std::function<bool(emu::Session&)>& run) {
  emu::Session session(options);
  Outcome outcome;
  try {
    outcome.right = run(session);
  } catch (const emu::Error& e) {
    outcome.problem = e.problem;
    outcome.message = e.what();
  }
  outcome.statistics = session.statistics();
  return outcome;
}

inline const emu::Options kNaive = {.order = emu::Order::fifo, .async = emu::Async::early, .poison = false};

// The ways in which a kernel's tests run it, but for race mode
inline std::vector<emu::Options> hostile_ways() {
  std::vector<emu::Options> ways = {{.order = emu::Order::fifo, .async = emu::Async::late}, {.order = emu::Order::lifo, .async = emu::Async::late}};
  for (uint64_t seed = 1; seed <= 4; ++seed) ways.push_back({.order = emu::Order::random, .seed = seed});
  for (uint64_t seed = 5; seed <= 6; ++seed) ways.push_back({.order = emu::Order::priority, .seed = seed});
  return ways;
}

inline std::vector<emu::Options> race_ways() {
  std::vector<emu::Options> ways;
  for (const emu::Options& way : hostile_ways()) {
    ways.push_back(way);
    ways.back().race = true;
  }
  ways.push_back({.order = emu::Order::fifo, .async = emu::Async::early, .race = true});
  return ways;
}

// What a mode makes of a planted bug
struct Finds {
  enum class How { nothing, wrong_result, stop, something, luck } how;
  std::vector<emu::Problem> problems = {};  // where it stops: any of these, as the order of threads decides

  bool match(const Outcome& outcome) const {
    switch (how) {
      case How::something:
        return !outcome.right;
      case How::luck:
        return true;
      case How::nothing:
        return outcome.right;
      case How::wrong_result:
        return !outcome.right && !outcome.problem;
      case How::stop:
        return outcome.problem && std::find(problems.begin(), problems.end(), *outcome.problem) != problems.end();
    }
    return false;
  }
};
inline const Finds kMissed = {Finds::How::nothing};
inline const Finds kWrong = {Finds::How::wrong_result};
inline const Finds kSomething = {Finds::How::something};  // a wrong result or a stop, as the order of threads decides
inline const Finds kLuck = {Finds::How::luck};            // no promise
template <typename... P>
Finds stops(P... problems) {
  return {Finds::How::stop, {problems...}};
}

// One line of a table of planted bugs
struct PlantedBug {
  const char* name;
  std::function<bool(emu::Session&)> run;
  Finds naive, hostile, race;
};

inline void check(const PlantedBug& bug) {
  const auto try_all = [&](const std::vector<emu::Options>& ways, const Finds& finds) {
    for (const emu::Options& way : ways) {
      const Outcome outcome = attempt(way, bug.run);
      INFO(bug.name << ", order " << static_cast<int>(way.order) << ", copies " << static_cast<int>(way.async) << ", seed " << way.seed
                    << ", race mode " << way.race << ": "
                    << (outcome.problem ? outcome.message
                        : outcome.right ? "right"
                                        : "wrong"));
      CHECK(finds.match(outcome));
    }
  };
  try_all({kNaive}, bug.naive);
  try_all(hostile_ways(), bug.hostile);
  try_all(race_ways(), bug.race);
}

}  // namespace flexgen::testing
