// SPDX-License-Identifier: Apache-2.0
// What a job of gpu_check works with: the card, memory on it, a stopwatch, and where its results go.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/gpu/card.h"
#include "bench/gpu/results.h"
#include "kernels/cuda/api/choose.h"
#include "kernels/cuda/runtime/cublaslt.h"

namespace flexgen::bench {

class CardPlaces;

enum class Scale {
  smoke,  // shapes that the emulator can run: do all jobs work?
  quick,  // about two minutes
  full,
};

// Where results go: through a pipe, or into Results at once. A line is one JSON object with one member: card, row, check or skipped.
using Emit = std::function<void(const Json&)>;

class Session {
 public:
  Session(OpenedCard, Scale, Emit);
  ~Session();

  Device& device() const { return *opened_.device; }
  const DeviceInfo& info() const { return device().info(); }
  const Json& description() const { return opened_.description; }
  const cuda::Card& card() const { return card_; }
  Device::Stream stream() const { return stream_; }
  size_t l2_bytes() const { return opened_.l2_bytes; }
  Scale scale() const { return scale_; }
  bool smoke() const { return scale_ == Scale::smoke; }

  // Memory of the card; Fault::space where there is too little, which skips the job
  DeviceMemory memory(size_t bytes) { return DeviceMemory(device(), bytes); }
  // The same with what it shall hold
  template <typename T>
  DeviceMemory upload(const std::vector<T>& values) {
    return upload_bytes(values.data(), values.size() * sizeof(T));
  }
  DeviceMemory random(DType, int64_t n, float scale, uint64_t seed);
  void download(void* to, const std::byte* from, size_t bytes);

  // So many sets of operands of this size that what a launch reads is no longer in the cache when its turn comes again
  int sets_of(double bytes) const;

  // Fills seconds, spread and repeats. launch(i) for i in [0, sets) puts a call with set i on the stream.
  Row timed(Row row, int sets, const std::function<void(int)>& launch);
  void emit(const Row& row) { emit_(Json{{"row", row}}); }
  void emit(const Check& check) { emit_(Json{{"check", check}}); }
  void emit(const Skipped& skipped) { emit_(Json{{"skipped", skipped}}); }
  void emit_card() { emit_(Json{{"card", opened_.description}}); }

  // nullptr where there is none; asked for once
  cuda::CublasLt* cublaslt();
  std::span<std::byte> cublaslt_workspace();

  CardPlaces& places();  // for the cases of tests/cuda

 private:
  DeviceMemory upload_bytes(const void* from, size_t bytes);

  OpenedCard opened_;
  cuda::Card card_;
  Scale scale_;
  Emit emit_;
  DeviceStream stream_;
  Arena staging_;
  std::vector<DeviceEvent> events_;
  std::unique_ptr<cuda::CublasLt> cublaslt_;
  DeviceMemory cublaslt_workspace_;
  bool asked_for_cublaslt_ = false;
  std::unique_ptr<CardPlaces> places_;
};

struct Job {
  std::string name;
  std::function<void(Session&)> run;
};

inline constexpr int kRepeats = 20;

}  // namespace flexgen::bench
