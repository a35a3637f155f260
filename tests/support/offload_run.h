// SPDX-License-Identifier: Apache-2.0
// Requests through an engine that stands on a memory plan, on a card or without one, and what came of them.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "flexgen/engine/offload.h"
#include "kernels/registry.h"
#include "support/engine_bench.h"
#include "support/temp_dir.h"

namespace flexgen::testing {

class OffloadRun {
 public:
  explicit OffloadRun(const std::string& model_file) : model_(model_file) {}

  Policy policy;
  std::vector<Request> requests;
  std::function<void(const Offload&)> started;  // before the first request, or null

  struct Result {
    Answers answers;
    std::optional<MemoryPlan::OnDevice> on_device;
    uint64_t to_device_bytes = 0, from_device_bytes = 0;  // streamed
    WeightStatistics weights;
    KvStatistics kv;

    // of each request and sample, in order
    std::vector<std::vector<int32_t>> tokens() const {
      std::vector<std::vector<int32_t>> all;
      for (const auto& [key, a] : answers) all.push_back(a.tokens);
      return all;
    }
  };

  // everything in memory
  Result on_host() {
    Policy all = policy;
    all.shares = Policy::Shares{{1, 0}, {1, 0}, {1, 0}};
    return run(all, nullptr, {});
  }
  // as the policy has it; faults of the disk: as --fault takes them
  Result on(DeviceBackend& device, const std::string& faults = "") {
    return run(policy, &device, faults.empty() ? std::nullopt : std::optional(parse_fault_spec(faults)));
  }

  const std::string& spill_folder() const { return spill_.path(); }

 private:
  static int64_t longest(const Request& r) { return static_cast<int64_t>(r.prompt.size()) + r.settings.max_new_tokens - 1; }

  Demand demand() const {
    Demand d;
    d.sequences = 0;
    for (const Request& r : requests) {
      d.sequences += r.settings.num_return_sequences + (r.settings.num_return_sequences > 1 ? 1 : 0);  // the prompt has pages of its own
      d.tokens_per_sequence = std::max(d.tokens_per_sequence, longest(r));
    }
    d.total_tokens = d.sweep_tokens = d.sequences * d.tokens_per_sequence;
    d.least_sweep_tokens = d.logits = d.sequences;
    return d;
  }

  Result run(const Policy& p, DeviceBackend* device, std::optional<FaultSpec> faults) {
    const Backend& host = *backends().front();
    const DeviceRoom room = device ? DeviceRoom{device, device->device().free_bytes()} : DeviceRoom{};
    Offload offload(model_, p, make_memory_plan(model_.file(), model_.description(), p, demand(), process_memory(), room), pool_,
                    {.io_engine = "threads", .faults = std::move(faults), .spill_folder = spill_.path(), .device = device, .host = &host});
    if (started) started(offload);
    Result result;
    result.on_device = offload.plan().device;
    Engine engine(model_.description(), offload.weights(), nullptr, device ? device->operations() : host, pool_, offload.engine_options());
    for (const Request& r : requests) engine.submit(r);
    while (!engine.idle()) collect(engine.step(), result.answers);
    offload.check_disk();
    result.weights = offload.weights().statistics();
    result.kv = engine.kv_statistics();
    if (const DeviceIoEngine* io = offload.device_io()) {
      result.to_device_bytes = io->device_statistics().to_device.bytes;
      result.from_device_bytes = io->device_statistics().from_device.bytes;
    }
    return result;
  }

  LanguageModel model_;
  TempDir spill_ = TempDir::in_memory();
  ThreadPool pool_{2};
};

}  // namespace flexgen::testing
