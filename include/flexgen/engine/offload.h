// SPDX-License-Identifier: Apache-2.0
// A memory plan made real: the arena with its pieces, the I/O engine, the spill files, the weights. An engine or a sweep stands on it.
//
//   LanguageModel + Policy + Demand  ->  MemoryPlan  ->  Offload  ->  Engine
//
// With a device, the pieces that computing touches are its memory, and a DeviceIoEngine stands between that and the arena, which is then
// pinned, and the files. Weights that are not to be pinned lie in an arena of their own.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "flexgen/engine/engine.h"
#include "flexgen/engine/language_model.h"
#include "flexgen/io/device_io.h"
#include "flexgen/io/io_file.h"
#include "flexgen/io/make_io_engine.h"
#include "flexgen/memory/arena.h"
#include "flexgen/memory/system_memory.h"
#include "flexgen/runtime/memory_plan.h"

namespace flexgen {

struct OffloadOptions {
  std::string io_engine = "auto";              // auto, uring, threads
  std::optional<FaultSpec> faults = {};        // made on purpose
  std::string spill_folder = "/var/tmp";       // for what the plan puts on disk besides weights
  DeviceBackend* device = nullptr;             // that computes: the one of the plan, or null
  const Backend* host = nullptr;               // attends on the host, for policy.cpu_cache_compute
  Trace* trace = nullptr;                      // its memory is what the plan has for it
  std::function<void(uint64_t)> progress = {}; // bytes of weights read at the start so far
  const std::atomic<bool>* stop = nullptr;     // ends the start with Fault::interrupted
};

// what this process has and may take
inline ProcessMemory process_memory() {
  const ResidentMemory resident = resident_memory();
  return {resident.bytes, available_memory(), resident.file_bytes};
}

class Offload {
 public:
  // Allocates all the plan says and reads the resident weights. A plan that misses memory, and a disk without room for the spill files,
  // are a Fault::space before anything is allocated. model, policy and pool outlive this.
  Offload(const LanguageModel& model, const Policy& policy, MemoryPlan plan, ThreadPool& pool, OffloadOptions options = {})
      : policy_(policy), plan_(std::move(plan)), pool_(pool), trace_(options.trace), file_(open(model, plan_)) {
    if (plan_.kv.disk_pages > 0) kv_spill_.emplace(SpillFile::create(options.spill_folder, plan_.kv.disk_bytes()));
    if (plan_.hidden_disk_bytes > 0) hidden_spill_.emplace(SpillFile::create(options.spill_folder, plan_.hidden_disk_bytes));
    if (trace_) trace_->limit(plan_.trace_bytes);
    FG_CHECK((options.device != nullptr) == plan_.device.has_value(), "a plan for another machine");
    FG_CHECK(!plan_.kv_demand.attend_on_host || options.host, "nobody attends on the host");
    backend_ = options.device;
    host_backend_ = options.host;
    arena_ = Arena(plan_.arena_bytes(), backend_ ? &backend_->device() : nullptr);
    pageable_ = Arena(plan_.pageable_bytes());
    cut();
    io_ = make_io_engine({.engine = options.io_engine, .memory = transfer_memory(), .faults = std::move(options.faults), .trace = options.trace});
    TieredWeightsOptions w{.verify = policy.verify,
                           .look_ahead = policy.overlap,
                           .fd = file_.fd(),
                           .trace = options.trace,
                           .progress = std::move(options.progress),
                           .stop = options.stop};
    if (backend_) {
      start_device(model);
      w.on_device = {&backend_->device(), *stream_, host_weights_, vectors_, staging_};
    }
    weights_ = std::make_unique<TieredWeights>(model.file(), plan_.weights, resident_, ring_, rows_, io_of_tiers(), pool, std::move(w));
  }

  const MemoryPlan& plan() const { return plan_; }
  const Arena& arena() const { return arena_; }
  const Arena& pageable() const { return pageable_; }  // of host weights that are not pinned
  QueuedEngine& io() const { return *io_; }
  bool direct() const { return file_.direct(); }  // weights are read past the page cache
  TieredWeights& weights() { return *weights_; }
  const TieredWeights& weights() const { return *weights_; }

  DeviceQueue* device_queue() const { return queue_.get(); }           // or null
  const DeviceIoEngine* device_io() const { return device_io_.get(); }  // or null

  // At the end of a run: what was read ahead and never needed, or written behind and never read again, may have failed unseen. The disk
  // is then a Fault::io, although all answers are right.
  void check_disk() const {
    io_of_tiers().drain();
    io_->drain();
    if (device_io_) device_io_->rethrow();
    if (const uint64_t n = io_->statistics().errors; n > 0)
      fail(Fault::io,
           "{}: {} reads or writes that nothing waited for failed in the end. The answers are complete; check the disk and the system's log",
           file_.path(), n);
  }

  KvOptions kv_options() const {
    KvOptions o = KvOptions::planned(plan_.kv_demand, plan_.kv);
    o.memory = kv_;
    o.pool = &pool_;
    o.trace = trace_;
    if (backend_) o.device = &backend_->device(), o.stream = *stream_, o.host_memory = host_kv_;
    if (o.lower_pages() == 0) return o;
    o.io = &io_of_tiers();
    o.spill_fd = kv_fd();
    o.spill_name = kv_spill_ ? kv_spill_->name() : "KV cache in host memory";
    return o;
  }

  SweepOptions sweep_options() const {
    SweepOptions o;
    o.activation_bytes = UINT64_MAX;  // the plan has bounded a sweep's tokens
    o.logits_bytes = plan_.logits_bytes;
    o.hidden = {.memory_share = plan_.activation_share,
                .host_share = plan_.activation_host_share,
                .memory = hidden_,
                .frames = frames_,
                .io = &io_of_tiers(),
                .look_ahead = policy_.overlap,
                .trace = trace_};
    o.hidden.fd = hidden_fd();
    o.hidden.host_offset = plan_.hidden_disk_bytes;
    if (hidden_spill_) o.hidden.path = hidden_spill_->name();
    o.device = queue_.get();
    if (!attended_.empty()) o.host_attention = {host_backend_, &pool_, attended_, merged_, policy_.deterministic};
    if (o.device) o.blocks_at_once = 64;  // what one launch takes
    o.tokens_at_once = plan_.tokens_at_once;
    o.host_logits = host_logits_;
    o.merge_steps = !policy_.sep_layer;
    o.scratch = scratch_;
    o.head = head_;
    o.trace = trace_;
    return o;
  }

  EngineOptions engine_options() const {
    EngineOptions o;
    o.gpu_batch_size = policy_.gpu_batch_size;
    o.num_gpu_batches = policy_.num_gpu_batches;
    o.micro_batch_tokens = policy_.micro_batch_tokens;
    o.sweep_tokens = plan_.sweep_tokens;
    o.kv_dtype = policy_.kv_dtype;
    o.kv = kv_options();
    o.sweep = sweep_options();
    return o;
  }

 private:
  // Numbers of "files" that lie in host memory entirely: they only name extents.
  static constexpr int kNoKvFile = 1 << 30, kNoHiddenFile = kNoKvFile + 1;

  IoEngine& io_of_tiers() const { return device_io_ ? static_cast<IoEngine&>(*device_io_) : *io_; }
  int kv_fd() const { return kv_spill_ ? kv_spill_->fd() : kNoKvFile; }
  int hidden_fd() const { return hidden_spill_ ? hidden_spill_->fd() : plan_.hidden_host_bytes > 0 ? kNoHiddenFile : -1; }

  void start_device(const LanguageModel& model) {
    Device& device = backend_->device();
    stream_.emplace(device);
    std::vector<HostExtent> extents = TieredWeights::host_extents(model.file(), plan_.weights, file_.fd(), host_weights_,
                                                                   plan_.device->pinned_weights);
    if (!host_kv_.empty()) extents.push_back({kv_fd(), plan_.kv.host_offset(), host_kv_});
    if (!host_hidden_.empty()) extents.push_back({hidden_fd(), plan_.hidden_disk_bytes, host_hidden_});
    const auto place = [](const HostExtent& e) { return std::tie(e.fd, e.offset); };
    std::sort(extents.begin(), extents.end(), [&](const HostExtent& a, const HostExtent& b) { return place(a) < place(b); });
    device_io_ = std::make_unique<DeviceIoEngine>(DeviceIoOptions{.device = device,
                                                                  .compute = *stream_,
                                                                  .device_memory = {device_memory_.memory()},
                                                                  .disk = io_.get(),
                                                                  .bounce = bounce_,
                                                                  .slot_bytes = plan_.device->bounce_slot,
                                                                  .resident = std::move(extents),
                                                                  .trace = trace_});
    queue_ = backend_->make_queue(plan_.device->demand, *stream_, workspace_, arguments_);
  }

  static std::string not_free(uint64_t asked) {
    return asked ? fmt::format(" (no more of the {} asked for is free)", format_bytes(asked)) : "";
  }
  static IoFile open(const LanguageModel& model, const MemoryPlan& plan) {
    if (plan.device_missing_bytes() > 0)
      fail(Fault::space,
           "{}: does not fit: found a need of {} of GPU memory, allowed {}{}: {} are missing. {}, or take fewer or shorter sequences, or give "
           "more to host memory and disk",
           model.file().file().path(), format_bytes(plan.device_bytes()), format_bytes(plan.device->budget_bytes),
           not_free(plan.device->asked_bytes), format_bytes(plan.device_missing_bytes()),
           plan.device->asked_bytes ? "End other programs on that card" : "Give more --gpu-memory");
    if (plan.missing_bytes() > 0)
      fail(Fault::space,
           "{}: does not fit: found a need of {} of memory, allowed {}{}: {} are missing. Give more {}, fewer or shorter sequences, or more to the "
           "disk",
           model.file().file().path(), format_bytes(plan.memory_bytes()), format_bytes(plan.budget_bytes),
           plan.all_free && !plan.asked_bytes ? " (what is free)" : not_free(plan.asked_bytes), format_bytes(plan.missing_bytes()),
           plan.all_free ? "memory to the machine or its cgroup" : "--memory");
    return IoFile::open(model.file().file());
  }

  using Piece = std::pair<std::span<std::byte>*, uint64_t>;

  // The pieces that the plan counted
  void cut() {
    const std::vector<Piece> fast{{&resident_, plan_.weights.resident_bytes()},
                                  {&ring_, plan_.ring_bytes},
                                  {&rows_, plan_.rows_bytes},
                                  {&kv_, plan_.kv.memory_bytes()},
                                  {&hidden_, plan_.hidden_bytes},
                                  {&frames_, plan_.frames_bytes},
                                  {&scratch_, plan_.scratch_bytes},
                                  {&head_, plan_.head_bytes}};
    if (!backend_) return cut(fast, [&](size_t bytes, size_t alignment) { return arena_.take(bytes, alignment); });
    const MemoryPlan::OnDevice& on = *plan_.device;
    device_memory_ = DeviceMemory(backend_->device(), plan_.device_bytes());
    std::span<std::byte> left = device_memory_.memory();
    const auto take = [&](size_t bytes, size_t) {
      const std::span<std::byte> piece = left.first(bytes);
      left = left.subspan(bytes);
      return piece;
    };
    cut(fast, take);
    cut({{&vectors_, on.vectors_bytes}, {&workspace_, on.workspace_bytes}, {&merged_, on.merged_bytes}}, take);
    if (!on.pinned_weights) host_weights_ = pageable_.take(plan_.weights.host_bytes());
    cut({{&host_weights_, on.pinned_weights ? plan_.weights.host_bytes() : 0},
         {&host_kv_, plan_.kv.host_bytes()},
         {&host_hidden_, plan_.hidden_host_bytes},
         {&bounce_, on.bounce_bytes},
         {&arguments_, on.arguments_bytes},
         {&staging_, on.staging_bytes},
         {&host_logits_, on.logits_bytes},
         {&attended_, on.attended_bytes}},
        [&](size_t bytes, size_t alignment) { return arena_.take(bytes, alignment); });
  }

  // Large pieces first: they begin on huge pages, and so nothing is lost between them.
  template <typename Take>
  static void cut(const std::vector<Piece>& pieces, Take&& take) {
    for (const bool large : {true, false})
      for (const auto& [piece, bytes] : pieces)
        if (bytes > 0 && (bytes >= Arena::kHugePage) == large)
          *piece = take(MemoryPlan::piece(bytes), large ? Arena::kHugePage : size_t{4096}).first(bytes);
  }

  // All but the resident weights, where these come first, as a large piece does: they are read once, and pinning them for the ring would
  // cost the kernel more than it saves.
  std::span<std::byte> transfer_memory() const {
    const std::span<std::byte> all = arena_.memory();
    if (backend_) return bounce_;
    return resident_.data() == all.data() ? all.subspan(MemoryPlan::piece(resident_.size())) : all;
  }

  const Policy& policy_;
  const MemoryPlan plan_;
  ThreadPool& pool_;
  Trace* const trace_;
  IoFile file_;  // the model file, past the page cache
  std::optional<SpillFile> kv_spill_, hidden_spill_;
  Arena arena_, pageable_;
  DeviceBackend* backend_ = nullptr;
  const Backend* host_backend_ = nullptr;
  DeviceMemory device_memory_;
  std::span<std::byte> resident_, ring_, rows_, kv_, hidden_, frames_, scratch_, head_;  // of the device, or of the arena
  std::span<std::byte> vectors_, workspace_, merged_;                                   // of the device
  // of the arenas, with a device
  std::span<std::byte> host_weights_, host_kv_, host_hidden_, bounce_, arguments_, staging_, host_logits_, attended_;
  std::unique_ptr<QueuedEngine> io_;  // ends before the memory and files that it works on, as do the next three
  std::optional<DeviceStream> stream_;
  std::unique_ptr<DeviceIoEngine> device_io_;
  std::unique_ptr<DeviceQueue> queue_;
  std::unique_ptr<TieredWeights> weights_;
};

}  // namespace flexgen
