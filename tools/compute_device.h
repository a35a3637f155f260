// SPDX-License-Identifier: Apache-2.0
// The card that --device names, opened, or nothing: then the CPU computes.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "flexgen/base/error.h"
#include "flexgen/ops/device_backend.h"
#include "flexgen/runtime/memory_plan.h"
#include "kernels/registry.h"
#include "tools/engine_options.h"

namespace flexgen::tools {

class ComputeDevice {
 public:
  ComputeDevice() = default;
  // A card that there is not among others is a Fault::usage, and so is --gemm cublaslt without a card or the library. No card at all is told
  // in `note`, a line, where one was asked for by name.
  explicit ComputeDevice(const EngineFlags& flags) {
    const std::optional<int> wanted = flags.card();
    if (!wanted) return;
    std::string why;
    const std::vector<DeviceInfo> all = devices(&why);
    if (all.empty()) {
      if (flags.gemm == "cublaslt")
        fail(Fault::usage, "--gemm cublaslt: found no card ({}), allowed with one. Use --gemm own, or leave it out", why);
      if (*wanted >= 0) note_ = fmt::format("--device {}: {}; the CPU computes", printable(flags.device), why);
      return;
    }
    device_ = open_device(*wanted < 0 ? all.front().index : *wanted);
    backend_ = make_device_backend(*device_, {flags.deterministic ? cuda::Arithmetic::one_order : cuda::Arithmetic::fast,
                                              flags.gemm == "cublaslt" ? open_cublaslt() : nullptr});
  }

  explicit operator bool() const { return backend_ != nullptr; }
  DeviceBackend* backend() const { return backend_.get(); }  // or null
  Device* device() const { return device_.get(); }           // or null
  const std::string& note() const { return note_; }
  DeviceRoom room() const { return backend_ ? DeviceRoom{backend_.get(), device_->free_bytes()} : DeviceRoom{}; }

 private:
  std::unique_ptr<Device> device_;
  std::unique_ptr<DeviceBackend> backend_;
  std::string note_;
};

}  // namespace flexgen::tools
