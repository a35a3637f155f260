// SPDX-License-Identifier: Apache-2.0
// Cards through the CUDA runtime, which is linked statically and opens the driver by itself: a program with this runs where there is
// neither driver nor card. No CUDA type; kernels/registry.h is what the rest of the program calls.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flexgen/memory/device.h"

namespace flexgen::cuda {

// All cards, "cuda:<index>" each. Where there is none, *why says so in a few words, and that is no error: "no NVIDIA driver"
std::vector<DeviceInfo> cuda_devices(std::string* why = nullptr);

// Fault::usage where this build has no kernels for that card, Fault::gpu where it cannot be used
std::unique_ptr<Device> open_cuda_device(int index);

// For launches, which take the card that is current in their thread: makes it that card. Returns a CUDA error code
int use_card(int index);

// "cudaErrorIllegalAddress, an illegal memory access was encountered". For the codes that launches return
std::string error_text(int cuda_error);

}  // namespace flexgen::cuda
