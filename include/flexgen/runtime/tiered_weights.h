// SPDX-License-Identifier: Apache-2.0
// Weights over memory and disk. Resident row blocks are read once and used in place. The others come through a ring of slots: the order
// of a sweep is known and cyclic, so whenever a slot is free the next block is asked for, across steps and sweeps. Whoever releases a
// slot submits that read; there is no streaming thread, and no barrier: a consumer waits for the blocks it asked for, and no others.
// With a device all of this lies in the device's memory, and the engine below brings bytes there, from host memory or from disk.
// No more is asked for at a time than keeps the disk busy, and the slot that was given back last is filled first: so a ring that is
// drained as fast as it fills stays in the CPU's cache.
//
// A block's life: coming -> reading (its slot belongs to the engine) -> there -> verified -> held -> its slot is free.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/io/device_io.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/memory/device.h"
#include "flexgen/runtime/block_reader.h"
#include "flexgen/runtime/policy.h"
#include "flexgen/runtime/streamed_rows.h"
#include "flexgen/runtime/weight_placement.h"
#include "flexgen/runtime/weight_stream.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

// Where things lie when a device computes: resident blocks, ring and rows are its memory, and the engine is a DeviceIoEngine that knows
// host_extents()
struct WeightsOnDevice {
  Device* device = nullptr;
  Device::Stream stream = nullptr;   // that uses the weights
  std::span<std::byte> host;         // placement.host_bytes(): the blocks that are streamed from there
  std::span<std::byte> vectors;      // of the device, TieredWeights::vectors_bytes()
  std::span<std::byte> staging;      // pinned, TieredWeights::vector_staging_bytes()
};

struct TieredWeightsOptions {
  Verify verify = Verify::first;
  bool look_ahead = true;                          // off: a block is read when it is asked for
  int fd = -1;                                     // where blocks are read from; -1: the model file's own descriptor
  Trace* trace = nullptr;
  std::function<void(uint64_t)> progress = {};     // bytes read at the start so far
  const std::atomic<bool>* stop = nullptr;         // ends the reading at the start with Fault::interrupted
  WeightsOnDevice on_device = {};
};

// thread: one at a time
class TieredWeights final : public WeightStream {
 public:
  // Memory that belongs to the caller, 4 KiB aligned: for the resident blocks (placement.resident_bytes()), for the ring (slots of
  // slot_bytes(file)), and for single rows (rows_bytes(...)). Reads and verifies all resident blocks. References outlive this.
  TieredWeights(const ModelFile& file, WeightPlacement placement, std::span<std::byte> resident, std::span<std::byte> ring, std::span<std::byte> rows,
                IoEngine& io, ThreadPool& pool, TieredWeightsOptions options = {})
      : file_(file),
        placement_(std::move(placement)),
        options_(std::move(options)),
        device_(options_.on_device.device),
        slot_bytes_(slot_bytes(file)),
        slot_of_(file.blocks().size(), kNoSlot),
        reader_(file, placement_, io, pool, options_.fd >= 0 ? options_.fd : file.file().fd(), device_, options_.verify, options_.trace, stats_),
        rows_(reader_, rows, slot_bytes_, options_.on_device.stream) {
    FG_CHECK(resident.size() >= placement_.resident_bytes(), "{} bytes for {}", resident.size(), placement_.resident_bytes());
    FG_CHECK(placement_.host_bytes() == 0 || device_, "{} bytes in host memory behind no device", placement_.host_bytes());
    slots_ = std::make_unique<Slot[]>(ring.size() / slot_bytes_);
    for (size_t i = 0; i < ring.size() / slot_bytes_; ++i) slots_[i].data = ring.data() + i * slot_bytes_, free_.push_back(i);
    load(resident);
  }
  ~TieredWeights() override { cancel(); }

  // of a ring's slot: the largest block; 2 MiB blocks begin on huge pages
  static size_t slot_bytes(const ModelFile& file) {
    uint64_t largest = 4096;
    for (const FileBlock& b : file.blocks()) largest = std::max(largest, b.bytes);
    return round_up<size_t>(largest, largest > 1_MiB ? Buffer::kHugePage : 4096);
  }
  // What acquire_rows needs for n_rows different rows of t, and blocks that are read as a whole to be verified
  static size_t rows_bytes(const ModelFile& file, const FileTensor& t, int64_t n_rows) {
    return StreamedRows::bytes(t, n_rows, slot_bytes(file));
  }

  // With a device: of all vectors on it, and of the largest record's on their way there
  static size_t vectors_bytes(const ModelFile& file) { return vector_sizes(file).first; }
  static size_t vector_staging_bytes(const ModelFile& file) { return vector_sizes(file).second; }
  // With a device: which parts of the file (descriptor fd) lie in `host`, of placement.host_bytes()
  static std::vector<HostExtent> host_extents(const ModelFile& file, const WeightPlacement& placement, int fd, std::span<std::byte> host,
                                              bool pinned = true) {
    std::vector<HostExtent> extents;
    for (size_t b = 0; b < file.blocks().size(); ++b) {
      if (!placement.in_host(b)) continue;
      const FileBlock& block = file.blocks()[b];
      FG_CHECK(block.bytes <= host.size(), "{} bytes of host memory for a block of {}", host.size(), block.bytes);
      extents.push_back({fd, block.offset, host.first(block.bytes), pinned});
      host = host.subspan(block.bytes);
    }
    return extents;
  }

  void begin_sweep(const SweepOrder& order) override {
    const bool same = std::equal(order.body.begin(), order.body.end(), body_.begin(), body_.end()) &&
                      std::equal(order.head.begin(), order.head.end(), head_.begin(), head_.end());
    if (left_ != 0 || held_ != 0 || !same) {
      cancel();
      body_.assign(order.body.begin(), order.body.end());
      head_.assign(order.head.begin(), order.head.end());
      body_blocks_ = streamed(body_);
      head_blocks_ = streamed(head_);
      coming_.assign(body_blocks_.begin(), body_blocks_.end());
    }
    // the body was announced by the sweep before; now its head, and the body of the sweep after
    for (size_t i = 0; i < order.head_passes; ++i) coming_.insert(coming_.end(), head_blocks_.begin(), head_blocks_.end());
    coming_.insert(coming_.end(), body_blocks_.begin(), body_blocks_.end());
    left_ = body_blocks_.size() + order.head_passes * head_blocks_.size();
    advance();
  }

  void advance() override {
    // a card copies what it is asked for in order, and needs nobody to ask again
    if (options_.look_ahead) read_ahead(free_.size(), device_ ? SIZE_MAX : kAskedBytes / slot_bytes_);
  }
  size_t at_once() const override { return placement_.streamed_bytes() == 0 ? SIZE_MAX : options_.look_ahead ? slots() / 4 : slots(); }
  size_t n_blocks(TensorRef t) const override { return tensor(t).blocks.size(); }

  WeightView acquire(TensorRef ref, size_t first, size_t last) override {
    Tensor& t = tensor(ref);
    arriving_.clear();
    for (size_t i = first; i < last; ++i) {
      const size_t b = t.first_block + i;
      if (placement_.resident(b)) {
        stats_.resident_bytes += file_.blocks()[b].bytes;
        continue;
      }
      if (slot_of_[b] != kNoSlot) {
        ++slots_[slot_of_[b]].holders;
        continue;
      }
      if (in_order_.size() == arriving_.size()) read_ahead(missing(t, i, last), SIZE_MAX);
      FG_CHECK(in_order_.size() > arriving_.size() && slots_[in_order_[arriving_.size()]].block == b,
               "block {} was not announced next, or {} slots are too few", b, slots());
      arriving_.push_back(in_order_[arriving_.size()]);
    }
    arrive();
    for (const size_t s : arriving_) t.blocks[slots_[s].block - t.first_block].data = slots_[s].data;
    return {t.dtype, t.rows, t.cols, std::span(t.blocks).subspan(first, last - first)};
  }

  void release(TensorRef ref, size_t first, size_t last) override {
    const Tensor& t = tensor(ref);
    for (size_t b = t.first_block + first; b < t.first_block + last; ++b) {
      if (placement_.resident(b)) continue;
      FG_CHECK(slot_of_[b] != kNoSlot, "block {} is not held", b);
      Slot& slot = slots_[slot_of_[b]];
      if (--slot.holders > 0) continue;
      --held_;
      free_.push_back(slot_of_[b]);
      slot_of_[b] = kNoSlot;
    }
    advance();
  }

  WeightView acquire_rows(TensorRef ref, std::span<const int32_t> rows) override {
    Tensor& t = tensor(ref);
    bool all = true;
    for (size_t b = t.first_block; b < t.first_block + t.blocks.size() && all; ++b) all = placement_.resident(b);
    if (all) return {t.dtype, t.rows, t.cols, t.blocks};
    return {t.dtype, t.rows, t.cols, rows_.gather(file_tensor(file_, ref), t.blocks, rows)};
  }
  void release_rows(TensorRef) override {}

  const float* vector(TensorRef t) const override { return device_ ? tensor(t).on_device : tensor(t).values.data(); }

  const WeightStatistics& statistics() const { return stats_; }
  const WeightPlacement& placement() const { return placement_; }

 private:
  struct Tensor {
    DType dtype = DType::f32;
    int64_t rows = 0, cols = 0;
    size_t first_block = 0;
    std::vector<RowBlock> blocks;  // of a matrix; addresses of streamed ones are good while they are held
    std::vector<float> values;     // of a vector, or
    const float* on_device = nullptr;
  };
  struct Slot {
    std::byte* data = nullptr;
    size_t block = 0;
    int holders = 0;
    IoTicket ticket;
    uint64_t hash = 0;  // of what came, where the engine hashes
  };
  static constexpr size_t kNoSlot = SIZE_MAX;
  static constexpr uint64_t kAskedBytes = 32_MiB;  // the engine's 8 MiB in flight, and what it starts next
  static constexpr uint64_t kLoadBytes = 32_MiB;  // in flight while another as many are hashed

  static constexpr size_t kVectorAlignment = 64;  // floats

  static std::pair<size_t, size_t> vector_sizes(const ModelFile& file) {  // bytes of all, and of the largest record
    size_t all = 0, largest = 0;
    for (const FileRecord& r : file.records()) {
      size_t record = 0;
      for (const FileTensor& t : file.tensors().subspan(r.first_tensor, r.n_tensors))
        if (t.is_vector()) record += round_up(static_cast<size_t>(t.shape[0]), kVectorAlignment) * sizeof(float);
      all += record;
      largest = std::max(largest, record);
    }
    return {all, largest};
  }

  Tensor& tensor(TensorRef t) { return tensors_[t.record][t.tensor]; }
  const Tensor& tensor(TensorRef t) const { return tensors_[t.record][t.tensor]; }
  size_t slots() const { return in_order_.size() + held_ + free_.size(); }

  std::vector<size_t> streamed(std::span<const TensorRef> matrices) const {
    std::vector<size_t> out;
    for (const TensorRef& m : matrices)
      for (size_t b = tensor(m).first_block; b < tensor(m).first_block + tensor(m).blocks.size(); ++b)
        if (!placement_.resident(b)) out.push_back(b);
    return out;
  }

  // --- the ring

  // of the blocks [first, last) of t: those that are neither resident nor held
  size_t missing(const Tensor& t, size_t first, size_t last) const {
    size_t n = 0;
    for (size_t b = t.first_block + first; b < t.first_block + last; ++b) n += !placement_.resident(b) && slot_of_[b] == kNoSlot ? 1 : 0;
    return n;
  }

  // up to n blocks more, and up to `most` that are asked for and not there
  void read_ahead(size_t n, size_t most) {
    while (n_there_ < in_order_.size() && slots_[in_order_[n_there_]].ticket.done()) ++n_there_;
    requests_.clear();
    for (; n > 0 && in_order_.size() - n_there_ < std::max<size_t>(most, 1) && !free_.empty() && !coming_.empty(); --n) {
      const size_t s = free_.back();
      free_.pop_back();
      slots_[s].block = coming_.front();
      coming_.pop_front();
      slots_[s].holders = 0;
      in_order_.push_back(s);
      requests_.push_back(reader_.request(slots_[s].block, slots_[s].data, slots_[s].ticket, slots_[s].hash));
      stats_.streamed_bytes += requests_.back().bytes;
    }
    if (!requests_.empty()) reader_.submit(requests_);
  }

  // the slots in arriving_ are waited for, verified and held
  void arrive() {
    if (arriving_.empty()) return;
    reader_.wait([&] {
      for (const size_t s : arriving_) reader_.check(slots_[s].block, slots_[s].ticket.wait());
    }, [&] { return std::all_of(arriving_.begin(), arriving_.end(), [&](size_t s) { return slots_[s].ticket.done(); }); });
    verify_list_.clear();
    for (const size_t s : arriving_) verify_list_.push_back({slots_[s].block, slots_[s].data, &slots_[s].ticket, &slots_[s].hash});
    reader_.verify(verify_list_);
    for (const size_t s : arriving_) {
      slots_[s].holders = 1;
      slot_of_[slots_[s].block] = s;
      in_order_.pop_front();
      if (n_there_ > 0) --n_there_;
      ++held_;
    }
    left_ -= arriving_.size();
  }

  // A sweep was broken off: nothing that was announced will be asked for.
  void cancel() {
    for (const size_t s : in_order_) slots_[s].ticket.wait(), free_.push_back(s);
    in_order_.clear();
    n_there_ = 0;
    coming_.clear();
    for (size_t& s : slot_of_) {
      if (s != kNoSlot) free_.push_back(s);
      s = kNoSlot;
    }
    left_ = held_ = 0;
    body_.clear();
    head_.clear();
  }

  // --- at the start

  void load(std::span<std::byte> resident) {
    // blocks to read: vectors into a buffer of their own, matrices to where they stay
    struct Load {
      size_t block;
      std::byte* data;
      bool host;  // memory that the host can read
    };
    std::vector<Load> loads;
    std::byte* next = resident.data();
    std::byte* next_host = options_.on_device.host.data();
    FG_CHECK(options_.on_device.host.size() >= placement_.host_bytes(), "{} bytes for {}", options_.on_device.host.size(), placement_.host_bytes());
    uint64_t vector_bytes = 0;
    for (const FileRecord& r : file_.records()) vector_bytes = std::max(vector_bytes, has_vectors(r) ? file_.blocks()[r.first_block].bytes : 0);
    const Buffer vectors(vector_bytes);
    for (const FileRecord& r : file_.records()) {
      auto& tensors = tensors_.emplace_back();
      for (size_t i = 0; i < r.n_tensors; ++i) {
        const FileTensor& x = file_.tensors()[r.first_tensor + i];
        Tensor& t = tensors.emplace_back();
        t.dtype = x.dtype;
        if (x.is_vector()) continue;
        t.rows = x.shape[0], t.cols = x.shape[1], t.first_block = x.first_block;
        for (size_t b = 0; b < x.n_blocks; ++b) {
          const int64_t first = static_cast<int64_t>(b) * x.rows_per_block;
          t.blocks.push_back({nullptr, first, std::min(x.rows_per_block, t.rows - first)});
          if (placement_.resident(x.first_block + b)) {
            t.blocks.back().data = next;
            loads.push_back({x.first_block + b, next, device_ == nullptr});
            next += file_.blocks()[x.first_block + b].bytes;
          } else if (placement_.in_host(x.first_block + b)) {  // in the order of host_extents()
            loads.push_back({x.first_block + b, next_host, true});
            next_host += file_.blocks()[x.first_block + b].bytes;
          }
        }
      }
    }

    std::deque<IoTicket> tickets(loads.size());
    std::vector<uint64_t> hashes(loads.size());
    const auto submit = [&](size_t first) {  // kLoadBytes from there on; where they end
      uint64_t bytes = 0;
      requests_.clear();
      for (; first < loads.size() && bytes < kLoadBytes; ++first) {
        requests_.push_back(loads[first].host ? reader_.request(loads[first].block, loads[first].data, tickets[first])
                                              : reader_.request(loads[first].block, loads[first].data, tickets[first], hashes[first]));
        bytes += requests_.back().bytes;
      }
      if (!requests_.empty()) reader_.submit(requests_);
      return first;
    };
    const Awaited awaited(tickets);
    size_t begin = 0, end = submit(0), after = submit(end);
    while (begin < end) {
      uint64_t bytes = 0;
      verify_list_.clear();
      for (size_t i = begin; i < end; ++i) {
        if (options_.stop && options_.stop->load(std::memory_order_relaxed)) fail(Fault::interrupted, "stopped while loading");
        reader_.check(loads[i].block, tickets[i].wait());
        verify_list_.push_back({loads[i].block, loads[i].data, &tickets[i], loads[i].host ? nullptr : &hashes[i]});
        bytes += file_.blocks()[loads[i].block].bytes;
      }
      reader_.verify(verify_list_);
      loaded(bytes);
      begin = end, end = after, after = submit(end);
    }
    for (size_t r = 0; r < file_.records().size(); ++r)
      if (has_vectors(file_.records()[r])) load_vectors(r, vectors);
    reader_.loaded();
  }

  bool has_vectors(const FileRecord& r) const { return r.n_tensors > 0 && file_.tensors()[r.first_tensor].is_vector(); }

  void load_vectors(size_t record, const Buffer& buffer) {
    const FileRecord& r = file_.records()[record];
    const FileBlock& block = file_.blocks()[r.first_block];
    IoTicket ticket;
    const IoRequest read = reader_.request(r.first_block, buffer.data(), ticket);
    reader_.submit({&read, 1});
    reader_.check(r.first_block, ticket.wait());
    verify_list_.assign(1, {r.first_block, buffer.data(), &ticket});
    reader_.verify(verify_list_);
    for (size_t i = 0; i < r.n_tensors; ++i) {
      const FileTensor& x = file_.tensors()[r.first_tensor + i];
      if (!x.is_vector()) continue;
      std::vector<float>& values = tensors_[record][i].values;
      values.resize(static_cast<size_t>(x.shape[0]));
      for (size_t e = 0; e < values.size(); ++e) values[e] = load_element(x.dtype, buffer.data() + (x.offset - block.offset), e);
    }
    if (device_) send_vectors(record);
    loaded(block.bytes);
  }

  // A record's vectors go to the device, and are there when this returns.
  void send_vectors(size_t record) {
    const WeightsOnDevice& d = options_.on_device;
    std::byte* const to = d.vectors.data() + vectors_sent_;
    size_t bytes = 0;
    for (Tensor& t : tensors_[record]) {
      if (t.values.empty()) continue;
      const size_t room = round_up(t.values.size(), kVectorAlignment) * sizeof(float);
      FG_CHECK(bytes + room <= d.staging.size() && vectors_sent_ + bytes + room <= d.vectors.size(), "{} and {} bytes for vectors", d.staging.size(),
               d.vectors.size());
      std::memcpy(d.staging.data() + bytes, t.values.data(), t.values.size() * sizeof(float));
      t.on_device = reinterpret_cast<const float*>(to + bytes);
      t.values = {};
      bytes += room;
    }
    if (bytes == 0) return;
    device_->copy(to, d.staging.data(), bytes, d.stream);
    device_->synchronize_stream(d.stream);
    vectors_sent_ += bytes;
  }

  void loaded(uint64_t bytes) {
    stats_.loaded_bytes += bytes;
    if (options_.progress) options_.progress(stats_.loaded_bytes);
  }

  const ModelFile& file_;
  const WeightPlacement placement_;
  const TieredWeightsOptions options_;
  Device* const device_;  // or null
  std::vector<std::vector<Tensor>> tensors_;  // [record][tensor]

  const size_t slot_bytes_;
  std::unique_ptr<Slot[]> slots_;
  std::vector<size_t> free_;        // slots, the next one last
  std::deque<size_t> in_order_;     // slots that are read into or wait to be acquired, first one first
  size_t n_there_ = 0;              // of in_order_, from the front, that were read into at last sight
  std::deque<size_t> coming_;       // blocks that no slot was there for yet
  std::vector<size_t> slot_of_;     // per block: the slot that holds it, while it is held
  size_t vectors_sent_ = 0;         // bytes
  std::vector<TensorRef> body_, head_;
  std::vector<size_t> body_blocks_, head_blocks_;
  size_t left_ = 0;                 // blocks of this sweep that were not acquired yet
  size_t held_ = 0;                 // slots

  WeightStatistics stats_;
  BlockReader reader_;
  StreamedRows rows_;

  std::vector<size_t> arriving_;    // scratch
  std::vector<BlockReader::Arrived> verify_list_;
  std::vector<IoRequest> requests_;
};

}  // namespace flexgen
