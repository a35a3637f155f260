// SPDX-License-Identifier: Apache-2.0
// Which backends this build has and this machine can run, and which cards. Only registry.cc sees build options.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/memory/device.h"
#include "flexgen/ops/backend.h"
#include "flexgen/ops/device_backend.h"
#include "kernels/cuda/api/backend.h"

namespace flexgen {

// Every backend that can run here, the fastest first, "ref" last
std::span<const Backend* const> backends();

// By name, or the fastest for "auto"; an unknown one, or one that this CPU lacks, is a Fault::usage that lists what there is
const Backend& backend(std::string_view name);

// Every card; where there is none, *why_none says so in a few words, and the CPU computes
std::vector<DeviceInfo> devices(std::string* why_none = nullptr);

// "cuda:<index>"; one that is not there is a Fault::usage that lists what there is
std::unique_ptr<Device> open_device(int index);

// For CudaBackendOptions. Of these libraries, by default CublasLt::kNames, the first that can be opened; a Fault::usage where there is none
std::shared_ptr<cuda::CublasLt> open_cublaslt(std::span<const char* const> names = {});

// The operations on a card, which outlives them. A Fault::usage where this build has no CUDA kernels
std::unique_ptr<DeviceBackend> make_device_backend(Device& device, const cuda::CudaBackendOptions& options = {});

}  // namespace flexgen
