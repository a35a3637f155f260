// SPDX-License-Identifier: Apache-2.0
// A memory plan made real: the arena with its pieces, the I/O engine, the spill files, the weights. An engine or a sweep stands on it.
//
//   LanguageModel + Policy + Demand  ->  MemoryPlan  ->  Offload  ->  Engine
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "flexgen/engine/engine.h"
#include "flexgen/engine/language_model.h"
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
  HostPinner* pinner = nullptr;                // of a GPU, for policy.pin_weight
  Trace* trace = nullptr;
  std::function<void(uint64_t)> progress = {}; // bytes of weights read at the start so far
  const std::atomic<bool>* stop = nullptr;     // ends the start with Fault::interrupted
};

// what this process has and may take
inline ProcessMemory process_memory() { return {resident_memory(), available_memory()}; }

class Offload {
 public:
  // Allocates all the plan says and reads the resident weights. A plan that misses memory, and a disk without room for the spill files,
  // are a Fault::space before anything is allocated. model, policy and pool outlive this.
  Offload(const LanguageModel& model, const Policy& policy, MemoryPlan plan, ThreadPool& pool, OffloadOptions options = {})
      : policy_(policy), plan_(std::move(plan)), pool_(pool), trace_(options.trace), file_(open(model, plan_)) {
    if (plan_.kv.disk_pages > 0) kv_spill_.emplace(SpillFile::create(options.spill_folder, plan_.kv.disk_bytes()));
    if (plan_.hidden_disk_bytes > 0) hidden_spill_.emplace(SpillFile::create(options.spill_folder, plan_.hidden_disk_bytes));
    arena_ = Arena(plan_.arena_bytes(), policy.pin_weight ? options.pinner : nullptr);
    cut();
    io_ = make_io_engine({.engine = options.io_engine, .memory = transfer_memory(), .faults = std::move(options.faults), .trace = options.trace});
    weights_ = std::make_unique<TieredWeights>(model.file(), plan_.weights, resident_, ring_, rows_, *io_, pool,
                                               TieredWeightsOptions{.verify = policy.verify,
                                                                    .look_ahead = policy.overlap,
                                                                    .fd = file_.fd(),
                                                                    .trace = options.trace,
                                                                    .progress = std::move(options.progress),
                                                                    .stop = options.stop});
  }

  const MemoryPlan& plan() const { return plan_; }
  const Arena& arena() const { return arena_; }
  QueuedEngine& io() const { return *io_; }
  bool direct() const { return file_.direct(); }  // weights are read past the page cache
  TieredWeights& weights() { return *weights_; }
  const TieredWeights& weights() const { return *weights_; }

  // At the end of a run: what was read ahead and never needed, or written behind and never read again, may have failed unseen. The disk
  // is then a Fault::io, although all answers are right.
  void check_disk() const {
    io_->drain();
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
    if (!kv_spill_) return o;
    o.io = io_.get();
    o.spill_fd = kv_spill_->fd();
    o.spill_name = kv_spill_->name();
    return o;
  }

  SweepOptions sweep_options() const {
    SweepOptions o;
    o.activation_bytes = UINT64_MAX;  // the plan has bounded a sweep's tokens
    o.logits_bytes = plan_.logits_bytes;
    o.hidden = {.memory_share = plan_.activation_share,
                .memory = hidden_,
                .frames = frames_,
                .io = io_.get(),
                .look_ahead = policy_.overlap,
                .trace = trace_};
    if (hidden_spill_) o.hidden.fd = hidden_spill_->fd(), o.hidden.path = hidden_spill_->name();
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
  static IoFile open(const LanguageModel& model, const MemoryPlan& plan) {
    if (plan.missing_bytes() > 0)
      fail(Fault::space,
           "{}: does not fit: found a need of {} of memory, allowed {}: {} are missing. Give more --memory, fewer or shorter sequences, or more to "
           "the disk",
           model.file().file().path(), format_bytes(plan.memory_bytes()), format_bytes(plan.budget_bytes), format_bytes(plan.missing_bytes()));
    return IoFile::open(model.file().file());
  }

  // Large pieces first: they begin on huge pages, and so nothing is lost between them.
  void cut() {
    const std::pair<std::span<std::byte>*, uint64_t> pieces[] = {{&resident_, plan_.weights.resident_bytes()},
                                                                 {&ring_, plan_.ring_bytes},
                                                                 {&rows_, plan_.rows_bytes},
                                                                 {&kv_, plan_.kv.memory_bytes()},
                                                                 {&hidden_, plan_.hidden_bytes},
                                                                 {&frames_, plan_.frames_bytes},
                                                                 {&scratch_, plan_.scratch_bytes},
                                                                 {&head_, plan_.head_bytes}};
    for (const bool large : {true, false})
      for (const auto& [piece, bytes] : pieces)
        if (bytes > 0 && (bytes >= Arena::kHugePage) == large)
          *piece = arena_.take(MemoryPlan::piece(bytes), large ? Arena::kHugePage : 4096).first(bytes);
  }

  // All but the resident weights, where these come first, as a large piece does: they are read once, and pinning them for the ring would
  // cost the kernel more than it saves.
  std::span<std::byte> transfer_memory() const {
    const std::span<std::byte> all = arena_.memory();
    return resident_.data() == all.data() ? all.subspan(MemoryPlan::piece(resident_.size())) : all;
  }

  const Policy& policy_;
  const MemoryPlan plan_;
  ThreadPool& pool_;
  Trace* const trace_;
  IoFile file_;  // the model file, past the page cache
  std::optional<SpillFile> kv_spill_, hidden_spill_;
  Arena arena_;
  std::span<std::byte> resident_, ring_, rows_, kv_, hidden_, frames_, scratch_, head_;
  std::unique_ptr<QueuedEngine> io_;  // ends before the memory and files that it works on
  std::unique_ptr<TieredWeights> weights_;
};

}  // namespace flexgen
