// SPDX-License-Identifier: Apache-2.0
// Where the cases of the CUDA kernels run: in the emulator under hostile schedules, or on a card (bench/gpu). The operands of a case lie
// in host memory. A place says by which address kernels know each buffer, and when run() returns the buffers hold what kernels wrote.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/api/choose.h"
#include "kernels/emu/emulator.h"
#include "support/catch.h"

namespace flexgen::testing {

// Buffers keep their addresses in host memory and outlive the place. No byte may lie in two of them.
class Place {
 public:
  virtual ~Place() = default;

  // Kernels only read it
  template <typename T>
  const T* input(const T* data, size_t count, const char* name) {
    return static_cast<const T*>(add(const_cast<void*>(static_cast<const void*>(data)), count * sizeof(T), name, false));
  }
  template <typename T>
  const T* input(const std::vector<T>& values, const char* name = "input") {
    return input(values.data(), values.size(), name);
  }
  // The same for what only kernels need: tables of addresses
  template <typename T>
  const T* keep(std::vector<T> values, const char* name) {
    const auto kept = std::make_shared<std::vector<T>>(std::move(values));
    kept_.push_back(kept);
    return input(*kept, name);
  }
  // Kernels read and write it, and nothing beside it
  template <typename T>
  T* output(T* data, size_t count, const char* name) {
    return static_cast<T*>(add(data, count * sizeof(T), name, true));
  }
  template <typename T>
  T* output(std::vector<T>& values, const char* name = "output") {
    return output(values.data(), values.size(), name);
  }

  // launches(stream) returns 0 or the CUDA error code of a launch, and so does run(). It may be called more than once, each time with the
  // buffers as they were, and must do the same each time.
  virtual int run(const std::function<int(void* stream)>& launches) = 0;

  // What the emulator counted; a card counts nothing
  virtual std::optional<emu::Statistics> statistics() const = 0;

 private:
  virtual void* add(void* data, size_t bytes, const char* name, bool written) = 0;

  std::vector<std::shared_ptr<void>> kept_;
};

// One way of running a case
struct Way {
  std::string name;
  int number = 0;
  int sm = 90;  // whose instructions there are
};

// Of the program: tests/cuda/emulated_place.cc, bench/gpu/card_place.cc
std::vector<Way> ways(int sm = 90);
std::unique_ptr<Place> open(const Way&);
cuda::Card card_of(int arch, int multiprocessors = 0);  // a card to choose for: the emulator has any, a card only its own kind
bool runs_here(const cuda::LinearKernelRow&, DType weights);

// fn(place) adds its buffers, runs and checks
template <typename Fn>
void each_way(Fn&& fn) {
  for (const Way& way : ways()) {
    CAPTURE(way.name);
    const std::unique_ptr<Place> place = open(way);
    fn(*place);
  }
}

}  // namespace flexgen::testing
