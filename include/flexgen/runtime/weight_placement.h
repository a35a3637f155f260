// SPDX-License-Identifier: Apache-2.0
// Which row blocks of a model file stay in memory, and which are streamed in every sweep. Any share is met to within one row block and
// spread evenly over all matrices, so that no layer waits for the disk longer than another.
//
// Always in memory: vectors (as f32, apart), and the table of positions, of which a sweep reads single rows: 0.1 % of OPT-6.7B.
#pragma once

#include <algorithm>
#include <vector>

#include "flexgen/format/model_file.h"
#include "flexgen/model/program.h"

namespace flexgen {

inline const FileTensor& file_tensor(const ModelFile& file, TensorRef t) {
  return file.tensors()[file.records()[t.record].first_tensor + t.tensor];
}

class WeightPlacement {
 public:
  // `share` (0 to 1) of all weight bytes in memory
  static WeightPlacement of_share(const ModelFile& file, const Program& program, double share) {
    WeightPlacement p(file, program);
    const double wanted = share * static_cast<double>(file.weight_bytes()) - static_cast<double>(p.memory_bytes_);
    p.spread(file, std::max(0.0, wanted), 0.5);
    return p;
  }

  // As many blocks as fit into bytes; the token embedding first, because a sweep reads it at both ends. What is always there may need
  // more than that.
  static WeightPlacement within(const ModelFile& file, const Program& program, uint64_t bytes) {
    WeightPlacement p(file, program);
    for (const Operation& op : program.body.front().operations) {
      if (op.kind != Operation::Kind::embed_tokens) continue;
      const FileTensor& t = file_tensor(file, *op.weight);
      if (p.resident_bytes_ + t.bytes <= bytes) p.keep(file, t);
    }
    p.spread(file, bytes > p.resident_bytes_ ? static_cast<double>(bytes - p.resident_bytes_) : 0, 1.0);
    return p;
  }

  bool resident(size_t block) const { return resident_[block]; }
  uint64_t resident_bytes() const { return resident_bytes_; }  // of blocks that are used in place: matrices
  uint64_t memory_bytes() const { return memory_bytes_; }      // of the file's weights that are in memory: those, and the vectors
  uint64_t streamed_bytes() const { return total_ - memory_bytes_; }
  double share() const { return total_ ? static_cast<double>(memory_bytes_) / static_cast<double>(total_) : 1; }

 private:
  WeightPlacement(const ModelFile& file, const Program& program)
      : resident_(file.blocks().size()), fixed_(file.blocks().size()), total_(file.weight_bytes()) {
    for (const FileTensor& t : file.tensors())
      if (t.is_vector() && !fixed_[file.records()[t.record].first_block]) {
        fixed_[file.records()[t.record].first_block] = true;
        memory_bytes_ += file.blocks()[file.records()[t.record].first_block].bytes;
      }
    for (const Step& step : program.body)
      for (const Operation& op : step.operations)
        if (op.kind == Operation::Kind::embed_positions) keep(file, file_tensor(file, *op.weight));
  }

  void keep(const ModelFile& file, const FileTensor& t) {
    for (size_t b = t.first_block; b < t.first_block + t.n_blocks; ++b) {
      resident_[b] = fixed_[b] = true;
      resident_bytes_ += file.blocks()[b].bytes;
      memory_bytes_ += file.blocks()[b].bytes;
    }
  }

  // About `bytes` of the blocks that nothing was decided about: block after block each owes the memory its part, and one is kept
  // whenever `due` of it is owed (1: never more than `bytes`).
  void spread(const ModelFile& file, double bytes, double due) {
    uint64_t open = 0;
    for (size_t b = 0; b < fixed_.size(); ++b)
      if (!fixed_[b]) open += file.blocks()[b].bytes;
    if (open == 0) return;
    const double share = std::min(1.0, bytes / static_cast<double>(open));
    double owed = 0;
    for (size_t b = 0; b < fixed_.size(); ++b) {
      if (fixed_[b]) continue;
      const auto n = static_cast<double>(file.blocks()[b].bytes);
      owed += n * share;
      if (owed < n * due * (1 - 1e-9) || share == 0) continue;
      owed -= n;
      resident_[b] = true;
      resident_bytes_ += file.blocks()[b].bytes;
      memory_bytes_ += file.blocks()[b].bytes;
    }
  }

  std::vector<bool> resident_, fixed_;  // per block of the file; fixed: decided
  uint64_t total_ = 0, resident_bytes_ = 0, memory_bytes_ = 0;
};

}  // namespace flexgen
