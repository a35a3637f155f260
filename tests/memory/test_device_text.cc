// SPDX-License-Identifier: Apache-2.0
#include "flexgen/memory/device_text.h"

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("a card in one line", "[memory][device]") {
  CHECK(to_string(DeviceInfo{0, "NVIDIA H200", 90, 132, 232448, 150110011392}) == "cuda:0  NVIDIA H200, sm_90, 132 multiprocessors, 139.8 GiB");
  CHECK(to_string(DeviceInfo{3, "Tesla\x1b T4", 75, 40, 65536, 15655829504}) == "cuda:3  Tesla\\x1b T4, sm_75, 40 multiprocessors, 14.6 GiB");
}

TEST_CASE("a card with too little memory says what was asked for, what is free and what to do", "[memory][device]") {
  CHECK_FAULT(out_of_device_memory(DeviceInfo{1, "NVIDIA H200", 90, 132, 232448, 150110011392}, 20_GiB, 3_GiB), Fault::space,
              "cuda:1 (NVIDIA H200): memory of the card: found 3.00 GiB free of 140 GiB, 20.0 GiB were asked for. "
              "Lower --gpu-memory or end other programs on that card");
}
