// SPDX-License-Identifier: Apache-2.0
// What will lie where, decided before anything runs: every large piece of memory and of disk, against the budget. What does not fit is
// refused here, with the bytes that are missing; what is planned is allocated at once (engine/offload.h) and nothing large after it.
//
// Without shares of the policy a simple rule fills the memory: first what a run cannot do without, then the KV cache, then weights. A
// byte of either saves a byte of reading in every sweep, but the cache would also be written, and is read in smaller pieces.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/format/model_file.h"
#include "flexgen/runtime/kv_plan.h"
#include "flexgen/runtime/policy.h"
#include "flexgen/runtime/sweep.h"
#include "flexgen/runtime/tiered_weights.h"
#include "flexgen/runtime/weight_placement.h"

namespace flexgen {

// What is to be run, at most
struct Demand {
  int64_t sequences = 1;            // in the KV cache at a time
  int64_t tokens_per_sequence = 1;  // of the longest, in the KV cache
  int64_t total_tokens = 1;         // of all sequences at a time, in the KV cache
  int64_t sweep_tokens = 1;         // that a sweep could carry: all that is not computed yet
  int64_t least_sweep_tokens = 1;   // that it must be able to carry
  int64_t logits = 1;               // rows that a sweep could be asked for
};

// What the process has before the plan
struct ProcessMemory {
  uint64_t used_bytes = 0;       // resident now
  uint64_t available_bytes = 0;  // that it may take besides, cgroup limits included
};

struct MemoryPlan {
  struct Line {
    std::string what;
    uint64_t memory_bytes = 0, disk_bytes = 0;
  };

  uint64_t budget_bytes = 0;
  uint64_t process_bytes = 0;        // the program, tokenizer, vectors, books
  WeightPlacement weights;
  uint64_t ring_bytes = 0;           // slots for streamed row blocks
  uint64_t rows_bytes = 0;           // single rows of an embedding that is not in memory
  KvDemand kv_demand;
  KvRequirement kv;
  int64_t sweep_tokens = 0;
  double activation_share = 1;       // of the micro-batches, in memory
  uint64_t hidden_bytes = 0;         // in memory
  uint64_t frames_bytes = 0;         // hidden states on their way from and to disk
  uint64_t hidden_disk_bytes = 0;
  uint64_t scratch_bytes = 0;
  uint64_t head_bytes = 0;
  uint64_t kernels_bytes = 0;        // that kernels allocate for themselves
  uint64_t logits_bytes = 0;         // of the rows of logits that are computed at a time
  std::optional<Policy::Shares> asked;

  // --- of the arena
  static uint64_t piece(uint64_t bytes) {
    return bytes >= Buffer::kHugePage ? round_up<uint64_t>(bytes, Buffer::kHugePage) : round_up<uint64_t>(bytes, 4096);
  }
  uint64_t arena_bytes() const {
    uint64_t sum = 0;
    for (const uint64_t bytes :
         {weights.resident_bytes(), ring_bytes, rows_bytes, kv.memory_bytes(), hidden_bytes, frames_bytes, scratch_bytes, head_bytes})
      sum += piece(bytes);
    return round_up<uint64_t>(sum, Buffer::kHugePage);
  }
  // The kernel keeps a page of its tables for each huge page and counts it; and small things that nobody plans
  uint64_t overhead_bytes() const { return arena_bytes() / 512 + std::clamp<uint64_t>(arena_bytes() / 64, 4_MiB, 16_MiB); }
  uint64_t memory_bytes() const { return process_bytes + overhead_bytes() + kernels_bytes + arena_bytes(); }
  uint64_t spill_bytes() const { return kv.disk_bytes() + hidden_disk_bytes; }
  uint64_t missing_bytes() const { return memory_bytes() > budget_bytes ? memory_bytes() - budget_bytes : 0; }

  double kv_share() const {
    const size_t in_memory = kv.memory_pages + kv.unfilled_pages;
    return in_memory + kv.disk_pages == 0 ? 1 : static_cast<double>(in_memory) / static_cast<double>(in_memory + kv.disk_pages);
  }

  std::vector<Line> lines() const {
    return {{"program, tables, vectors", process_bytes + overhead_bytes(), 0},
            {"weights", weights.resident_bytes(), weights.streamed_bytes()},
            {"weights on their way", ring_bytes + rows_bytes, 0},
            {"KV cache", static_cast<uint64_t>(kv.memory_pages + kv.unfilled_pages) * kv.frame_bytes, kv.disk_bytes()},
            {"KV cache on its way", static_cast<uint64_t>(kv.staging_in + kv.staging_out) * kv.frame_bytes, 0},
            {"activations", hidden_bytes, hidden_disk_bytes},
            {"activations on their way", frames_bytes, 0},
            {"scratch and logits", scratch_bytes + head_bytes + kernels_bytes, 0}};
  }
};

namespace detail {

class MemoryPlanner {
 public:
  MemoryPlanner(const ModelFile& file, const ModelDescription& model, const Policy& policy, const Demand& demand, const ProcessMemory& process)
      : file_(file),
        model_(model),
        policy_(policy),
        demand_(demand),
        program_(policy.sep_layer ? opt_program(model) : merged_layers(opt_program(model))),
        plan_{.weights = WeightPlacement::of_share(file, program_, 1)} {
    plan_.budget_bytes = policy.memory_bytes ? policy.memory_bytes : process.used_bytes + process.available_bytes / 20 * 19;
    plan_.asked = policy.shares;
    count_process(process);
    count_activations();
  }

  MemoryPlan make() {
    if (policy_.shares) {
      set_cache(std::clamp(policy_.shares->cache.memory(), 0.0, 1.0));
      set_weights(WeightPlacement::of_share(file_, program_, std::clamp(policy_.shares->weights.memory(), 0.0, 1.0)));
    } else {
      fill();
    }
    return plan_;
  }

 private:
  // with 16 MiB the disk idled 6 % of a sweep of OPT-6.7B, with 32 and 64 it did not (end-to-end --look-ahead)
  static constexpr uint64_t kRingBytes = 64_MiB;
  static constexpr uint64_t kActivationBytes = 256_MiB;
  static constexpr uint64_t kLogitsBytes = 64_MiB;
  static constexpr size_t kLeastSlots = 8, kSlotsWithoutOverlap = 4;

  void count_process(const ProcessMemory& process) {
    uint64_t vectors = 0;
    for (const FileTensor& t : file_.tensors())
      if (t.is_vector()) vectors += static_cast<uint64_t>(t.shape[0]) * sizeof(float);
    const uint64_t books = file_.blocks().size() * 128 + static_cast<uint64_t>(demand_.sequences * demand_.tokens_per_sequence) * 8;
    plan_.process_bytes = process.used_bytes + vectors + books;
  }

  void count_activations() {
    plan_.activation_share = policy_.shares ? std::clamp(policy_.shares->activations.memory(), 0.0, 1.0) : 1;
    const bool on_disk = plan_.activation_share < 1;
    const int64_t wanted = std::min(demand_.sweep_tokens, kMostSweepTokens),
                  per_token = static_cast<int64_t>(scratch_bytes(program_, 1) + hidden_bytes(program_, 1));
    const auto room = static_cast<int64_t>(std::min(kActivationBytes, std::max<uint64_t>(plan_.budget_bytes / 16, 8_MiB)));
    plan_.sweep_tokens = on_disk ? wanted : std::min(wanted, std::max({room / per_token, std::min(demand_.least_sweep_tokens, wanted), int64_t{1}}));
    const int64_t micro_batch = std::min(policy_.micro_batch_tokens, plan_.sweep_tokens);
    if (on_disk) {
      // a cut that leaves a remainder may make one micro-batch more
      const int64_t batches = most_micro_batches(),
                    n_memory = batches - static_cast<int64_t>(std::floor(static_cast<double>(batches) * (1 - plan_.activation_share) + 1e-9));
      const uint64_t frame = HiddenStore::frame_bytes(micro_batch, program_.width[0]);
      plan_.hidden_bytes = std::min(static_cast<uint64_t>(n_memory) * frame, hidden_bytes(program_, plan_.sweep_tokens));
      plan_.frames_bytes = HiddenStore::kFrames * frame;
      plan_.hidden_disk_bytes = static_cast<uint64_t>(batches - n_memory) * frame;
      plan_.scratch_bytes = scratch_bytes(program_, micro_batch);
    } else {
      plan_.hidden_bytes = hidden_bytes(program_, plan_.sweep_tokens);
      plan_.scratch_bytes = scratch_bytes(program_, plan_.sweep_tokens);
    }
    plan_.kernels_bytes = linear_workspace(std::min(std::max(micro_batch, Sweep::kTokensAtOnce), plan_.sweep_tokens));
    plan_.logits_bytes = std::min<uint64_t>(kLogitsBytes, std::max<uint64_t>(plan_.budget_bytes / 32, 1_MiB));
    plan_.head_bytes = head_bytes(program_, head_rows(program_, std::min(demand_.logits, plan_.sweep_tokens), plan_.logits_bytes));
  }

  // what kernels keep between calls: the widest input of a micro-batch, rearranged (kernels/cpu/driver.cc)
  uint64_t linear_workspace(int64_t n_tok) const {
    uint64_t widest = 0;
    for (const FileTensor& t : file_.tensors())
      if (!t.is_vector()) widest = std::max(widest, static_cast<uint64_t>(t.shape[1]));
    return round_up<uint64_t>(static_cast<uint64_t>(n_tok) * widest * sizeof(float), Buffer::kHugePage);
  }

  // micro-batches that hold a sweep's tokens at most: full ones by tokens, full ones by sequences, and a last one
  int64_t most_micro_batches() const {
    return plan_.sweep_tokens / policy_.micro_batch_tokens + std::min(demand_.sequences, plan_.sweep_tokens) / policy_.gpu_batch_size + 1;
  }

  void set_cache(double share) {
    KvDemand& d = plan_.kv_demand;
    d.n_layers = model_.n_layers;
    d.n_sequences = demand_.sequences;
    d.tokens_per_sequence = demand_.tokens_per_sequence;
    d.total_tokens = demand_.total_tokens;
    d.sequences_per_micro_batch = std::min(policy_.gpu_batch_size, demand_.sequences);
    d.micro_batch_tokens = std::min(policy_.micro_batch_tokens, plan_.sweep_tokens);
    d.memory_share = share;
    d.overlap = policy_.overlap;
    d.layout = {policy_.kv_dtype, model_.n_kv_heads, model_.head_dim,
                choose_page_tokens(policy_.kv_dtype, model_.n_kv_heads, model_.head_dim, demand_.tokens_per_sequence, share < 1)};
    plan_.kv = kv_requirement(d);
  }

  // the placement, with the ring that it needs
  void set_weights(WeightPlacement placement) {
    plan_.weights = std::move(placement);
    plan_.ring_bytes = plan_.rows_bytes = 0;
    if (plan_.weights.streamed_bytes() == 0) return;
    const uint64_t slot = TieredWeights::slot_bytes(file_);
    // of a small model a quarter, or the ring would be all of it
    const uint64_t ahead = policy_.look_ahead_bytes ? policy_.look_ahead_bytes : std::min(kRingBytes, plan_.weights.streamed_bytes() / 4);
    uint64_t slots = policy_.overlap ? std::max<uint64_t>(kLeastSlots, ahead / slot) : kSlotsWithoutOverlap;
    if (plan_.activation_share < 1) slots += most_held();
    plan_.ring_bytes = slots * slot;
    for (const Operation& op : program_.body.front().operations) {
      if (op.kind != Operation::Kind::embed_tokens) continue;
      const FileTensor& t = file_tensor(file_, *op.weight);
      for (size_t b = t.first_block; b < t.first_block + t.n_blocks && plan_.rows_bytes == 0; ++b)
        if (!plan_.weights.resident(b))
          plan_.rows_bytes = TieredWeights::rows_bytes(file_, t, std::min(policy_.micro_batch_tokens, plan_.sweep_tokens));
    }
  }

  // streamed blocks of the step that has most of them: held while micro-batches go through it
  uint64_t most_held() const {
    uint64_t most = 0;
    for (const Step& step : program_.body) {
      uint64_t n = 0;
      for (const Operation& op : step.operations) {
        if (op.kind != Operation::Kind::linear) continue;
        const FileTensor& t = file_tensor(file_, *op.weight);
        for (size_t b = t.first_block; b < t.first_block + t.n_blocks; ++b) n += plan_.weights.resident(b) ? 0 : 1;
      }
      most = std::max(most, n);
    }
    return most;
  }

  void fill() {
    set_cache(1);
    set_weights(WeightPlacement::of_share(file_, program_, 1));
    if (plan_.missing_bytes() == 0) return;
    // as much of the cache as leaves room for what must be there, in 256ths
    set_weights(WeightPlacement::within(file_, program_, 0));
    if (plan_.missing_bytes() > 0) {
      int low = 0, high = 256;
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        set_cache(middle / 256.0);
        (plan_.missing_bytes() == 0 ? low = middle : high = middle - 1);
      }
      set_cache(low / 256.0);
    }
    // and as many weights as leave room for the ring; rounding to huge pages may cost one step more
    const uint64_t used = plan_.memory_bytes() - MemoryPlan::piece(plan_.weights.resident_bytes());
    for (uint64_t room = plan_.budget_bytes > used ? plan_.budget_bytes - used : 0;; room -= std::min<uint64_t>(room, 2_MiB)) {
      set_weights(WeightPlacement::within(file_, program_, room));
      if (plan_.missing_bytes() == 0 || room == 0) return;
    }
  }

  static constexpr int64_t kMostSweepTokens = 16384;

  const ModelFile& file_;
  const ModelDescription& model_;
  const Policy& policy_;
  const Demand& demand_;
  const Program program_;
  MemoryPlan plan_;
};

}  // namespace detail

// A plan that misses memory is returned as well: missing_bytes() says how much.
inline MemoryPlan make_memory_plan(const ModelFile& file, const ModelDescription& model, const Policy& policy, const Demand& demand,
                                   const ProcessMemory& process) {
  return detail::MemoryPlanner(file, model, policy, demand, process).make();
}

}  // namespace flexgen
