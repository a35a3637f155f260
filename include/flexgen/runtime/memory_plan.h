// SPDX-License-Identifier: Apache-2.0
// What will lie where, decided before anything runs: every large piece of memory and of disk, against the budget. What does not fit is
// refused here, with the bytes that are missing; what is planned is allocated at once (engine/offload.h) and nothing large after it.
//
// Without shares of the policy a simple rule fills the memory: first what a run cannot do without, then the KV cache, then weights. A
// byte of either saves a byte of reading in every sweep, but the cache would also be written, and is read in smaller pieces. With a device
// its memory is filled so, then the host's with the rest.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/format/model_file.h"
#include "flexgen/ops/device_backend.h"
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
  uint64_t trace_bytes = 0;         // of a timeline, which does with less
};

// What the process has before the plan
struct ProcessMemory {
  uint64_t used_bytes = 0;       // resident now
  uint64_t available_bytes = 0;  // that it may take besides, cgroup limits included
  uint64_t file_bytes = 0;       // counted in both
};

// A device that is to compute: what its operations need, and what of its memory may be taken
struct DeviceRoom {
  const DeviceBackend* backend = nullptr;
  uint64_t free_bytes = 0;
};

struct MemoryPlan {
  struct Line {
    std::string what;
    uint64_t device_bytes = 0, memory_bytes = 0, disk_bytes = 0;
  };

  // What a device adds. Then the pieces that computing touches lie in its memory (weights.resident_bytes() to head_bytes below), and the
  // host's holds what is streamed from there, and what passes through on its way.
  struct OnDevice {
    DeviceDemand demand;             // of its operations
    uint64_t budget_bytes = 0;
    uint64_t asked_bytes = 0;        // --gpu-memory, where less than that is free; else 0
    uint64_t vectors_bytes = 0;      // on the device
    uint64_t workspace_bytes = 0;    // likewise
    uint64_t arguments_bytes = 0;    // in host memory, as are these
    uint64_t staging_bytes = 0;      // vectors on their way
    bool pinned_weights = true;      // those of the host; else they are beside the arena and pass through the bounce
    uint64_t bounce_bytes = 0;       // pinned slots between disk, or pageable memory, and device
    uint64_t bounce_slot = 0;
    uint64_t logits_bytes = 0;       // that have come back
    uint64_t attended_bytes = 0;     // queries, and what they have seen of pages on the host
    uint64_t merged_bytes = 0;       // the same on the device
  };

  uint64_t budget_bytes = 0;
  uint64_t asked_bytes = 0;          // --memory, where less than that is free; else 0
  bool all_free = false;             // the budget is what is free, no more can be had
  uint64_t process_bytes = 0;        // the program, tokenizer, vectors, books
  WeightPlacement weights;
  uint64_t ring_bytes = 0;           // slots for streamed row blocks
  uint64_t rows_bytes = 0;           // single rows of an embedding that is not in memory
  KvDemand kv_demand;
  KvRequirement kv;
  int64_t sweep_tokens = 0;
  double activation_share = 1;       // of the micro-batches, in memory, of the device where there is one; 1 where all of a sweep are
  double activation_host_share = 0;  // behind a device
  uint64_t hidden_bytes = 0;         // in memory, of the device where there is one
  uint64_t hidden_host_bytes = 0;    // behind a device
  uint64_t frames_bytes = 0;         // hidden states on their way from and to disk
  uint64_t hidden_disk_bytes = 0;
  uint64_t scratch_bytes = 0;
  uint64_t head_bytes = 0;
  uint64_t kernels_bytes = 0;        // that kernels allocate for themselves
  uint64_t logits_bytes = 0;         // of the rows of logits that are computed at a time
  uint64_t trace_bytes = 0;          // of a timeline
  int64_t tokens_at_once = 0;        // that linear gets
  std::optional<Policy::Shares> asked;
  std::optional<OnDevice> device;

  // --- of the arena, which is pinned for a device
  static uint64_t piece(uint64_t bytes) {
    return bytes >= Buffer::kHugePage ? round_up<uint64_t>(bytes, Buffer::kHugePage) : round_up<uint64_t>(bytes, 4096);
  }
  // that computing touches
  std::vector<uint64_t> fast_pieces() const {
    return {weights.resident_bytes(), ring_bytes, rows_bytes, kv.memory_bytes(), hidden_bytes, frames_bytes, scratch_bytes, head_bytes};
  }
  std::vector<uint64_t> host_pieces() const {
    if (!device) return fast_pieces();
    return {device->pinned_weights ? weights.host_bytes() : 0, kv.host_bytes(),       hidden_host_bytes,    device->bounce_bytes,
            device->arguments_bytes,                           device->staging_bytes, device->logits_bytes, device->attended_bytes};
  }
  uint64_t arena_bytes() const { return round_up<uint64_t>(sum_of(host_pieces()), Buffer::kHugePage); }
  // --- of the one beside it
  uint64_t pageable_bytes() const { return device && !device->pinned_weights ? round_up<uint64_t>(weights.host_bytes(), Buffer::kHugePage) : 0; }
  // --- of the device
  uint64_t device_bytes() const {
    return device ? sum_of(fast_pieces()) + piece(device->vectors_bytes) + piece(device->workspace_bytes) + piece(device->merged_bytes) : 0;
  }
  uint64_t device_missing_bytes() const { return device && device_bytes() > device->budget_bytes ? device_bytes() - device->budget_bytes : 0; }
  // The kernel keeps a page of its tables for each huge page and counts it; and small things that nobody plans
  uint64_t overhead_bytes() const {
    const uint64_t arenas = arena_bytes() + pageable_bytes();
    return arenas / 512 + std::clamp<uint64_t>(arenas / 64, 4_MiB, 16_MiB);
  }
  uint64_t memory_bytes() const { return process_bytes + overhead_bytes() + kernels_bytes + trace_bytes + arena_bytes() + pageable_bytes(); }
  uint64_t spill_bytes() const { return kv.disk_bytes() + hidden_disk_bytes; }
  uint64_t missing_bytes() const { return memory_bytes() > budget_bytes ? memory_bytes() - budget_bytes : 0; }

  double kv_share() const { return kv_part(kv.memory_pages + kv.unfilled_pages + kv.host_pages); }  // in memory, the device's included
  double kv_device_share() const { return kv_part(kv.memory_pages + kv.unfilled_pages); }

  std::vector<Line> lines() const {
    const uint64_t pages = static_cast<uint64_t>(kv.memory_pages + kv.unfilled_pages) * kv.frame_bytes,
                   staged = static_cast<uint64_t>(kv.staging_in + kv.staging_out) * kv.frame_bytes, scratch = scratch_bytes + head_bytes;
    if (!device)
      return {{"program, tables, vectors", 0, process_bytes + overhead_bytes(), 0},
              {"weights", 0, weights.resident_bytes(), weights.disk_bytes()},
              {"weights on their way", 0, ring_bytes + rows_bytes, 0},
              {"KV cache", 0, pages, kv.disk_bytes()},
              {"KV cache on its way", 0, staged, 0},
              {"activations", 0, hidden_bytes, hidden_disk_bytes},
              {"activations on their way", 0, frames_bytes, 0},
              {"scratch and logits", 0, scratch + kernels_bytes, 0},
              {"timeline", 0, trace_bytes, 0}};
    return {{"program, tables, vectors", device->vectors_bytes, process_bytes + overhead_bytes(), 0},
            {"weights", weights.resident_bytes(), weights.host_bytes(), weights.disk_bytes()},
            {"weights on their way", ring_bytes + rows_bytes, 0, 0},
            {"KV cache", pages, kv.host_bytes(), kv.disk_bytes()},
            {"KV cache on its way", staged, 0, 0},
            {"activations", hidden_bytes, hidden_host_bytes, hidden_disk_bytes},
            {"activations on their way", frames_bytes, 0, 0},
            {"scratch and logits", scratch + device->workspace_bytes + device->merged_bytes,
             kernels_bytes + device->logits_bytes + device->arguments_bytes + device->attended_bytes, 0},
            {"between host and device", 0, device->bounce_bytes + device->staging_bytes, 0},
            {"timeline", 0, trace_bytes, 0}};
  }

 private:
  double kv_part(size_t pages) const {
    const size_t all = kv.memory_pages + kv.unfilled_pages + kv.host_pages + kv.disk_pages;
    return all == 0 ? 1 : static_cast<double>(pages) / static_cast<double>(all);
  }
  static uint64_t sum_of(const std::vector<uint64_t>& pieces) {
    uint64_t sum = 0;
    for (const uint64_t bytes : pieces) sum += piece(bytes);
    return sum;
  }
};

namespace detail {

class MemoryPlanner {
 public:
  MemoryPlanner(const ModelFile& file, const ModelDescription& model, const Policy& policy, const Demand& demand, const ProcessMemory& process,
                const DeviceRoom& device)
      : file_(file),
        model_(model),
        policy_(policy),
        demand_(demand),
        device_(device),
        program_(policy.sep_layer ? opt_program(model) : merged_layers(opt_program(model))),
        plan_{.weights = WeightPlacement::of_share(file, program_, 1)} {
    const bool free = policy.memory_bytes <= process.used_bytes + process.available_bytes;
    plan_.all_free = policy.memory_bytes == 0 || !free;
    plan_.budget_bytes = plan_.all_free ? process.used_bytes - process.file_bytes + process.available_bytes / 20 * 19 : policy.memory_bytes;
    if (!free) plan_.asked_bytes = policy.memory_bytes;
    plan_.asked = policy.shares;
    if (device_.backend) {
      const bool there = policy.device_bytes <= device_.free_bytes;
      plan_.device.emplace().budget_bytes = policy.device_bytes && there ? policy.device_bytes : device_.free_bytes / 20 * 19;
      if (!there) plan_.device->asked_bytes = policy.device_bytes;
      plan_.device->pinned_weights = policy.pin_weight;
    }
    count_process(process);
    count_activations();
  }

  MemoryPlan make() {
    if (policy_.shares) {
      set_cache(fast(policy_.shares->cache));
      const TierShare weights = fast(policy_.shares->weights);
      set_weights(plan_.device ? WeightPlacement::of_shares(file_, program_, weights)
                               : WeightPlacement::of_share(file_, program_, std::clamp(weights.device, 0.0, 1.0)));
    } else {
      fill();
    }
    return plan_;
  }

 private:
  // The more memory a disk reads into in turn, the slower it is: of a sweep of 48 sequences through 12 layers of OPT-6.7B it was busy 1.75 s
  // with 64 and 32 MiB and 1.54 s with 24; with 16 there are too few slots for groups of row blocks (end-to-end --look-ahead)
  static constexpr uint64_t kRingBytes = 24_MiB, kRingPart = 8;  // at most, and of the budget
  static constexpr uint64_t kDeviceRingBytes = 256_MiB;          // 5 ms of a fast link
  static constexpr uint64_t kActivationBytes = 256_MiB, kDeviceActivationBytes = 2_GiB;
  static constexpr uint64_t kLogitsBytes = 64_MiB;
  static constexpr size_t kLeastSlots = 8, kSlotsWithoutOverlap = 4;

  // The shares of the memory that computes and of the one behind it: without a device both are the host's.
  TierShare fast(const TierShare& s) const { return plan_.device ? s : TierShare{s.memory(), 0}; }

  void count_process(const ProcessMemory& process) {
    uint64_t vectors = 0;
    for (const FileTensor& t : file_.tensors())
      if (t.is_vector()) vectors += static_cast<uint64_t>(t.shape[0]) * sizeof(float);
    if (plan_.device) vectors = 0, plan_.device->vectors_bytes = TieredWeights::vectors_bytes(file_);
    const uint64_t books = file_.blocks().size() * 128 + static_cast<uint64_t>(demand_.sequences * demand_.tokens_per_sequence) * 8;
    plan_.process_bytes = process.used_bytes + vectors + books;
    plan_.trace_bytes = std::min(demand_.trace_bytes, std::max<uint64_t>(plan_.budget_bytes / 32, 4_MiB));
  }

  void count_activations() {
    const int64_t wanted = std::min(demand_.sweep_tokens, kMostSweepTokens),
                  per_token = static_cast<int64_t>(scratch_bytes(program_, 1) + hidden_bytes(program_, 1));
    const TierShare share = policy_.shares ? fast(policy_.shares->activations) : TierShare{1, 0};
    // whole micro-batches move: of few, perhaps none
    const int64_t batches = most_micro_batches(wanted), n_below = part(batches, 1 - share.device), n_disk = part(batches, 1 - share.memory());
    const bool moves = n_below > 0;
    if (moves) {
      plan_.activation_share = std::clamp(share.device, 0.0, 1.0);
      plan_.activation_host_share = std::clamp(share.host, 0.0, 1 - plan_.activation_share);
    }
    const auto room = static_cast<int64_t>(plan_.device ? std::min(kDeviceActivationBytes, std::max<uint64_t>(plan_.device->budget_bytes / 8, 8_MiB))
                                                        : std::min(kActivationBytes, std::max<uint64_t>(plan_.budget_bytes / 16, 8_MiB)));
    plan_.sweep_tokens = moves ? wanted : std::min(wanted, std::max({room / per_token, std::min(demand_.least_sweep_tokens, wanted), int64_t{1}}));
    const int64_t micro_batch = std::min(policy_.micro_batch_tokens, plan_.sweep_tokens);
    if (moves) {
      const uint64_t frame = HiddenStore::frame_bytes(micro_batch, program_.width[0]);
      plan_.hidden_bytes = std::min(static_cast<uint64_t>(batches - n_below) * frame, hidden_bytes(program_, plan_.sweep_tokens));
      plan_.frames_bytes = HiddenStore::kFrames * frame;
      plan_.hidden_host_bytes = static_cast<uint64_t>(n_below - n_disk) * frame;
      plan_.hidden_disk_bytes = static_cast<uint64_t>(n_disk) * frame;
      plan_.scratch_bytes = scratch_bytes(program_, micro_batch);
    } else {
      plan_.hidden_bytes = hidden_bytes(program_, plan_.sweep_tokens);
      plan_.scratch_bytes = scratch_bytes(program_, plan_.sweep_tokens);
    }
    plan_.tokens_at_once = plan_.device ? kDeviceTokensAtOnce : SweepOptions{}.tokens_at_once;
    const int64_t at_once = std::min(std::max(micro_batch, plan_.tokens_at_once), plan_.sweep_tokens);
    plan_.logits_bytes = std::min<uint64_t>(kLogitsBytes, std::max<uint64_t>(plan_.budget_bytes / 32, 1_MiB));
    const int64_t rows = head_rows(program_, std::min(demand_.logits, plan_.sweep_tokens), plan_.logits_bytes);
    plan_.head_bytes = head_bytes(program_, rows);
    if (plan_.device) {
      plan_.device->logits_bytes = static_cast<uint64_t>(rows * program_.head_width[3]) * sizeof(float);
      plan_.device->staging_bytes = TieredWeights::vector_staging_bytes(file_);
      plan_.device->demand.tokens = std::max(at_once, rows);
      plan_.device->demand.logits = rows;
    } else {
      plan_.kernels_bytes = linear_workspace(at_once);
    }
  }

  // whole ones of n that a share of them is at least
  static int64_t part(int64_t n, double share) { return static_cast<int64_t>(std::floor(static_cast<double>(n) * share + 1e-9)); }

  // what kernels keep between calls: the widest input of a micro-batch, rearranged (kernels/cpu/driver.cc)
  uint64_t linear_workspace(int64_t n_tok) const {
    uint64_t widest = 0;
    for (const FileTensor& t : file_.tensors())
      if (!t.is_vector()) widest = std::max(widest, static_cast<uint64_t>(t.shape[1]));
    return MemoryPlan::piece(static_cast<uint64_t>(n_tok) * round_up<uint64_t>(widest, 16) * sizeof(float));
  }

  // micro-batches that hold a sweep's tokens at most: full ones by tokens, full ones by sequences, and a last one
  int64_t most_micro_batches(int64_t sweep_tokens) const {
    return sweep_tokens / policy_.micro_batch_tokens + std::min(demand_.sequences, sweep_tokens) / policy_.gpu_batch_size + 1;
  }

  void set_cache(const TierShare& share) {
    KvDemand& d = plan_.kv_demand;
    d.n_layers = model_.n_layers;
    d.n_sequences = demand_.sequences;
    d.tokens_per_sequence = demand_.tokens_per_sequence;
    d.total_tokens = demand_.total_tokens;
    d.sequences_per_micro_batch = std::min(policy_.gpu_batch_size, demand_.sequences);
    d.micro_batch_tokens = std::min(policy_.micro_batch_tokens, plan_.sweep_tokens);
    d.memory_share = std::clamp(share.device, 0.0, 1.0);
    d.host_share = std::clamp(share.memory() - share.device, 0.0, 1.0);
    d.overlap = policy_.overlap;
    d.attend_on_host = plan_.device && policy_.cpu_cache_compute;
    d.layout = {policy_.kv_dtype, model_.n_kv_heads, model_.head_dim,
                choose_page_tokens(policy_.kv_dtype, model_.n_kv_heads, model_.head_dim, demand_.tokens_per_sequence, share.device < 1,
                                   plan_.device.has_value())};
    plan_.kv = kv_requirement(d);
    if (plan_.device) set_operations();
  }

  // what the device's operations need with that cache
  void set_operations() {
    MemoryPlan::OnDevice& on = *plan_.device;
    DeviceDemand& d = on.demand;
    d.sequences = plan_.kv_demand.sequences_per_micro_batch;
    d.pages = 2 * d.sequences * div_up(demand_.tokens_per_sequence, plan_.kv_demand.layout.page_tokens);
    d.n_heads = model_.n_heads;
    d.layout = plan_.kv_demand.layout;
    for (const FileTensor& t : file_.tensors()) {
      if (t.is_vector()) continue;
      d.widest_rows = std::max(d.widest_rows, t.shape[0]);
      d.widest_cols = std::max(d.widest_cols, t.shape[1]);
      if (t.dtype != DType::f32) d.weights = t.dtype;
    }
    if (plan_.kv_demand.attend_on_host && plan_.kv.host_pages > 0) {
      const int64_t n = plan_.kv_demand.micro_batch_tokens;
      on.attended_bytes = SplitAttention::pinned_bytes(n, model_.n_heads, model_.head_dim, program_.width[2]);
      on.merged_bytes = SplitAttention::device_bytes(n, model_.n_heads, model_.head_dim);
    } else {
      on.attended_bytes = on.merged_bytes = 0;
    }
    on.workspace_bytes = device_.backend->workspace_bytes(d);
    on.arguments_bytes = device_.backend->arguments_bytes(d);
    const uint64_t largest = std::max<uint64_t>(TieredWeights::slot_bytes(file_), plan_.kv.frame_bytes);
    on.bounce_slot = round_up<uint64_t>(std::max(largest, plan_.frames_bytes / HiddenStore::kFrames), 4096);
    on.bounce_bytes = kBounceSlots * on.bounce_slot;
  }

  // the placement, with the ring that it needs
  void set_weights(WeightPlacement placement) {
    plan_.weights = std::move(placement);
    plan_.ring_bytes = plan_.rows_bytes = 0;
    if (plan_.weights.streamed_bytes() == 0) return;
    const uint64_t slot = TieredWeights::slot_bytes(file_);
    // of a small model a quarter, or the ring would be all of it; of a small budget a part, or there would be no room for what it saves
    const uint64_t budget = plan_.device ? plan_.device->budget_bytes : plan_.budget_bytes;
    const uint64_t ahead =
        policy_.look_ahead_bytes
            ? policy_.look_ahead_bytes
            : std::min({plan_.device ? kDeviceRingBytes : kRingBytes, plan_.weights.streamed_bytes() / 4, budget / kRingPart});
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

  bool fits() const { return plan_.missing_bytes() == 0 && plan_.device_missing_bytes() == 0; }

  void fill() {
    set_cache({1, 0});
    set_weights(WeightPlacement::of_share(file_, program_, 1));
    if (fits()) return;
    // as much of the cache as leaves room for what must be there, in the memory that computes and then in the one behind it
    set_weights(WeightPlacement::within(file_, program_, 0));
    if (!fits()) {
      const double first = largest_share([&](double s) {
        set_cache({s, plan_.device ? 1 - s : 0});
        return plan_.device ? plan_.device_missing_bytes() == 0 : fits();
      });
      const double second = !plan_.device ? 0 : largest_share([&](double s) {
        set_cache({first, s * (1 - first)});
        return fits();
      });
      set_cache({first, second * (1 - first)});
    }
    // And as many weights as fit: at most what remains without a ring, because the fewer are streamed the smaller it is. Rounding to huge
    // pages hides small steps.
    const auto left = [](uint64_t budget, uint64_t used) { return budget > used ? budget - used : 0; };
    const auto step = [](uint64_t budget) { return std::clamp<uint64_t>(budget / 1024, 64_KiB, 2_MiB); };
    const uint64_t ring =
        MemoryPlan::piece(plan_.weights.resident_bytes()) + MemoryPlan::piece(plan_.ring_bytes) + MemoryPlan::piece(plan_.rows_bytes);
    const uint64_t host_room = left(plan_.budget_bytes, plan_.memory_bytes() - (plan_.device ? 0 : ring));
    uint64_t room = plan_.device ? left(plan_.device->budget_bytes, plan_.device_bytes() - ring) : host_room;
    uint64_t behind = plan_.device ? host_room : 0;
    for (;;) {
      set_weights(WeightPlacement::within(file_, program_, room, behind));
      const bool less_here = plan_.device ? plan_.device_missing_bytes() > 0 : plan_.missing_bytes() > 0;
      const bool less_behind = plan_.device && plan_.missing_bytes() > 0;
      if (fits() || (less_here && room == 0) || (less_behind && behind == 0)) return;
      if (less_here) room -= std::min(room, step(plan_.device ? plan_.device->budget_bytes : plan_.budget_bytes));
      if (less_behind) behind -= std::min(behind, step(plan_.budget_bytes));
    }
  }

  // the largest share, in 256ths, for which fits(share) holds; 0 where none does
  template <typename Fits>
  static double largest_share(Fits&& fits_with) {
    int low = 0, high = 256;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      (fits_with(middle / 256.0) ? low = middle : high = middle - 1);
    }
    return low / 256.0;
  }

  static constexpr int64_t kMostSweepTokens = 16384;
  static constexpr int64_t kDeviceTokensAtOnce = 4096;  // a card's matrix product needs thousands to be at its best
  static constexpr uint64_t kBounceSlots = 40;          // 8 of them for writing (io/device_io.h)

  const ModelFile& file_;
  const ModelDescription& model_;
  const Policy& policy_;
  const Demand& demand_;
  const DeviceRoom device_;
  const Program program_;
  MemoryPlan plan_;
};

}  // namespace detail

// A plan that misses memory is returned as well: missing_bytes() says how much.
inline MemoryPlan make_memory_plan(const ModelFile& file, const ModelDescription& model, const Policy& policy, const Demand& demand,
                                   const ProcessMemory& process, const DeviceRoom& device = {}) {
  return detail::MemoryPlanner(file, model, policy, demand, process, device).make();
}

}  // namespace flexgen
