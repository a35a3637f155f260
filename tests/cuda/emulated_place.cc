// SPDX-License-Identifier: Apache-2.0
// Cases in the emulator, which reads and writes the operands where they lie, each registered to the byte, so that race mode sees every
// access beyond. Plain builds meet three hostile orders; race mode, whose verdict does not hang on the order, one.
#include "cuda/place.h"

namespace flexgen::testing {
namespace {

std::vector<emu::Options> schedules() {
#if FLEXGEN_RACE
  return {{.order = emu::Order::random, .seed = 1, .race = true}};
#else
  return {{.order = emu::Order::random, .seed = 1},
          {.order = emu::Order::random, .seed = 2},
          {.order = emu::Order::lifo, .async = emu::Async::late}};
#endif
}

emu::Options options(const Way& way) {
  emu::Options o = schedules()[static_cast<size_t>(way.number)];
  o.sm = way.sm;
  return o;
}

class EmulatedPlace final : public Place {
 public:
  explicit EmulatedPlace(const Way& way) : session_(options(way)) {}
  int run(const std::function<int(void*)>& launches) override { return launches(nullptr); }
  std::optional<emu::Statistics> statistics() const override { return session_.statistics(); }

 private:
  void* add(void* data, size_t bytes, const char* name, bool) override {
    if (bytes > 0) session_.add(data, bytes, name);
    return data;
  }

  emu::Session session_;
};

}  // namespace

std::vector<Way> ways(int sm) {
  std::vector<Way> all;
  for (const emu::Options& o : schedules()) {
    const char* const order = o.race ? "race mode" : o.order == emu::Order::lifo ? "last first, copies late" : "random order";
    all.push_back({std::string(order) + ", seed " + std::to_string(o.seed), static_cast<int>(all.size()), sm});
  }
  return all;
}

std::unique_ptr<Place> open(const Way& way) { return std::make_unique<EmulatedPlace>(way); }

cuda::Card card_of(int arch, int multiprocessors) {
  const size_t shared = arch == 75 ? 64 : arch == 80 ? 163 : arch == 90 ? 227 : 99;
  const int sms = arch == 75 ? 40 : arch == 80 ? 108 : arch == 86 ? 82 : arch == 89 ? 128 : 132;
  return {arch, multiprocessors ? multiprocessors : sms, shared << 10};
}

bool runs_here(const cuda::LinearKernelRow&, DType) { return true; }

}  // namespace flexgen::testing
