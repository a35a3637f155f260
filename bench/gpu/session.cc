// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/gpu/card_place.h"
#include "bench/gpu/check_kernels.h"

namespace flexgen::bench {
namespace {

constexpr size_t kStaging = size_t{64} << 20;
constexpr double kLeastSample = 200e-6;  // seconds: long beside the events' resolution of 0.5 us and the launch of a graph
constexpr double kMostSeconds = 0.5;     // of the repeats of a row; five are made in any case
constexpr int kLeastRepeats = 5;
constexpr int kMostLaunches = 400;       // of a graph

}  // namespace

Session::Session(OpenedCard opened, Scale scale, Emit emit)
    : opened_(std::move(opened)),
      card_(card_of(opened_.device->info())),
      scale_(scale),
      emit_(std::move(emit)),
      stream_(*opened_.device),
      staging_(scale == Scale::smoke ? size_t{2} << 20 : kStaging, opened_.device.get()) {
  for (int i = 0; i <= kRepeats; ++i) events_.emplace_back(device(), true);
}

Session::~Session() = default;

CardPlaces& Session::places() {
  if (!places_) places_ = std::make_unique<CardPlaces>(device());
  return *places_;
}

DeviceMemory Session::upload_bytes(const void* from, size_t bytes) {
  DeviceMemory to(device(), std::max<size_t>(bytes, 16));
  for (size_t at = 0; at < bytes; at += staging_.size()) {
    const size_t n = std::min(staging_.size(), bytes - at);
    std::memcpy(staging_.memory().data(), static_cast<const std::byte*>(from) + at, n);
    device().copy(to.data() + at, staging_.memory().data(), n, stream_);
    device().synchronize_stream(stream_);
  }
  return to;
}

void Session::download(void* to, const std::byte* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += staging_.size()) {
    const size_t n = std::min(staging_.size(), bytes - at);
    device().copy(staging_.memory().data(), from + at, n, stream_);
    device().synchronize_stream(stream_);
    std::memcpy(static_cast<std::byte*>(to) + at, staging_.memory().data(), n);
  }
}

DeviceMemory Session::random(DType dtype, int64_t n, float scale, uint64_t seed) {
  DeviceMemory to = memory(std::max<size_t>(static_cast<size_t>(n) * size_of(dtype), 16));
  check_launch(fill_random(dtype, to.data(), n, scale, seed, stream_), "fill_random");
  return to;
}

int Session::sets_of(double bytes) const {
  return static_cast<int>(std::clamp(std::ceil(3 * static_cast<double>(l2_bytes()) / std::max(bytes, 1.0)), 1.0, smoke() ? 2.0 : 64.0));
}

Row Session::timed(Row row, int sets, const std::function<void(int)>& launch) {
  const auto all = [&](int n) {
    for (int i = 0; i < n; ++i) launch(i % sets);
  };
  const auto seconds_of = [&](const std::function<void()>& work) {
    device().record(events_[0], stream_);
    work();
    device().record(events_[1], stream_);
    device().synchronize(events_[1]);
    return std::max(device().seconds_between(events_[0], events_[1]), 1e-9);
  };
  all(sets);  // loads modules, asks cuBLASLt for its kernel
  device().synchronize_stream(stream_);
  const double each = seconds_of([&] { all(sets); }) / sets;
  const int n = smoke() ? sets : std::clamp(static_cast<int>(kLeastSample / each / sets) + 1, 1, std::max(kMostLaunches / sets, 1)) * sets;
  Recording recording(stream_, [&] { all(n); });
  recording.replay();
  const double sample = seconds_of([&] { recording.replay(); });
  const int repeats = smoke() ? 2 : std::clamp(static_cast<int>(kMostSeconds / sample), kLeastRepeats, kRepeats);
  for (int i = 0; i < repeats; ++i) {
    device().record(events_[static_cast<size_t>(i)], stream_);
    recording.replay();
  }
  device().record(events_[static_cast<size_t>(repeats)], stream_);
  device().synchronize(events_[static_cast<size_t>(repeats)]);
  std::vector<double> times;
  for (size_t i = 0; i < static_cast<size_t>(repeats); ++i) times.push_back(device().seconds_between(events_[i], events_[i + 1]) / n);
  std::sort(times.begin(), times.end());
  row.seconds = times[times.size() / 2], row.least = times.front(), row.most = times.back(), row.repeats = repeats;
  return row;
}

cuda::CublasLt* Session::cublaslt() {
  if (!asked_for_cublaslt_) {
    asked_for_cublaslt_ = true;
    std::string why_not;
    cublaslt_ = cuda::CublasLt::open(why_not);
    opened_.description["cublaslt"] = cublaslt_ ? cublaslt_->version() : "";
    if (cublaslt_) cublaslt_workspace_ = memory(cuda::CublasLt::kWorkspace);
    else emit(Skipped{"cuBLASLt", why_not});
  }
  return cublaslt_.get();
}

std::span<std::byte> Session::cublaslt_workspace() { return cublaslt_workspace_.memory(); }

}  // namespace flexgen::bench
