// SPDX-License-Identifier: Apache-2.0
// Which row blocks of a model file are resident: in the memory of whatever computes, a device where there is one, and used in place. The
// others are streamed in every sweep: with a device from host memory or from disk, without one from disk. Any share is met to within one
// row block and spread evenly over all matrices, so that no layer waits longer than another.
//
// Always resident: vectors (as f32, apart), and the table of positions, of which a sweep reads single rows: 0.1 % of OPT-6.7B.
#pragma once

#include <algorithm>
#include <vector>

#include "flexgen/format/model_file.h"
#include "flexgen/model/program.h"
#include "flexgen/runtime/policy.h"

namespace flexgen {

inline const FileTensor& file_tensor(const ModelFile& file, TensorRef t) {
  return file.tensors()[file.records()[t.record].first_tensor + t.tensor];
}

class WeightPlacement {
 public:
  // `share` (0 to 1) of all weight bytes resident
  static WeightPlacement of_share(const ModelFile& file, const Program& program, double share) {
    WeightPlacement p(file, program);
    const double wanted = share * static_cast<double>(file.weight_bytes()) - static_cast<double>(p.memory_bytes_);
    p.spread(file, std::max(0.0, wanted), 0.5, Place::resident);
    return p;
  }
  // The same with a device: share.device of all bytes resident, share.host in host memory. The two are exact together as well.
  static WeightPlacement of_shares(const ModelFile& file, const Program& program, const TierShare& share) {
    WeightPlacement p = of_share(file, program, share.device);
    const double wanted = share.memory() * static_cast<double>(file.weight_bytes()) - static_cast<double>(p.memory_bytes_);
    p.spread(file, share.memory() >= 1 ? static_cast<double>(p.streamed_bytes()) : std::max(0.0, wanted), 0.5, Place::host);
    return p;
  }

  // As many resident blocks as fit into bytes; the token embedding first, because a sweep reads it at both ends. What is always there may
  // need more than that. With a device: of the others, as many in host memory as fit into host_bytes.
  static WeightPlacement within(const ModelFile& file, const Program& program, uint64_t bytes, uint64_t host_bytes = 0) {
    WeightPlacement p(file, program);
    for (const Operation& op : program.body.front().operations) {
      if (op.kind != Operation::Kind::embed_tokens) continue;
      const FileTensor& t = file_tensor(file, *op.weight);
      if (p.resident_bytes_ + t.bytes <= bytes) p.keep(file, t);
    }
    p.spread(file, bytes > p.resident_bytes_ ? static_cast<double>(bytes - p.resident_bytes_) : 0, 1.0, Place::resident);
    p.spread(file, static_cast<double>(host_bytes), 1.0, Place::host);
    return p;
  }

  bool resident(size_t block) const { return place_[block] == Place::resident; }
  bool in_host(size_t block) const { return place_[block] == Place::host; }  // behind a device
  uint64_t resident_bytes() const { return resident_bytes_; }  // of blocks that are used in place: matrices
  uint64_t memory_bytes() const { return memory_bytes_; }      // of the file's weights that are resident: those, and the vectors
  uint64_t streamed_bytes() const { return total_ - memory_bytes_; }
  uint64_t host_bytes() const { return host_bytes_; }          // of those that are streamed from host memory
  uint64_t disk_bytes() const { return streamed_bytes() - host_bytes_; }
  double share() const { return of_all(memory_bytes_); }
  double host_share() const { return total_ ? of_all(host_bytes_) : 0; }

 private:
  enum class Place : uint8_t { open, disk, host, resident };  // open: nothing is decided yet, disk so far

  WeightPlacement(const ModelFile& file, const Program& program) : place_(file.blocks().size()), total_(file.weight_bytes()) {
    for (const FileTensor& t : file.tensors())
      if (t.is_vector() && place_[file.records()[t.record].first_block] == Place::open) {
        place_[file.records()[t.record].first_block] = Place::disk;  // its bytes stay there: the values are apart
        memory_bytes_ += file.blocks()[file.records()[t.record].first_block].bytes;
      }
    for (const Step& step : program.body)
      for (const Operation& op : step.operations)
        if (op.kind == Operation::Kind::embed_positions) keep(file, file_tensor(file, *op.weight));
  }

  void keep(const ModelFile& file, const FileTensor& t) {
    for (size_t b = t.first_block; b < t.first_block + t.n_blocks; ++b) {
      place_[b] = Place::resident;
      resident_bytes_ += file.blocks()[b].bytes;
      memory_bytes_ += file.blocks()[b].bytes;
    }
  }
  double of_all(uint64_t bytes) const { return total_ ? static_cast<double>(bytes) / static_cast<double>(total_) : 1; }

  // About `bytes` of the blocks that nothing was decided about: block after block each owes the place its part, and one goes there
  // whenever `due` of it is owed (1: never more than `bytes`).
  void spread(const ModelFile& file, double bytes, double due, Place place) {
    uint64_t open = 0;
    for (size_t b = 0; b < place_.size(); ++b)
      if (place_[b] == Place::open) open += file.blocks()[b].bytes;
    if (open == 0) return;
    const double share = std::min(1.0, bytes / static_cast<double>(open));
    double owed = 0;
    for (size_t b = 0; b < place_.size(); ++b) {
      if (place_[b] != Place::open) continue;
      const auto n = static_cast<double>(file.blocks()[b].bytes);
      owed += n * share;
      if (owed < n * due * (1 - 1e-9) || share == 0) continue;
      owed -= n;
      place_[b] = place;
      if (place == Place::host) {
        host_bytes_ += file.blocks()[b].bytes;
      } else {
        resident_bytes_ += file.blocks()[b].bytes;
        memory_bytes_ += file.blocks()[b].bytes;
      }
    }
  }

  std::vector<Place> place_;  // per block of the file
  uint64_t total_ = 0, resident_bytes_ = 0, memory_bytes_ = 0, host_bytes_ = 0;
};

}  // namespace flexgen
