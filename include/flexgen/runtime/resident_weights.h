// SPDX-License-Identifier: Apache-2.0
// All weights in host memory: each record in one buffer, its row blocks used in place.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "flexgen/base/thread_pool.h"
#include "flexgen/format/model_file.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/runtime/weight_stream.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

class ResidentWeights final : public WeightStream {
 public:
  // Reads every record of the file and verifies every block's hash; progress(bytes so far), from any thread. The file's records are those
  // of its description, in that order (stored_description has checked it). With *stop set, throws Fault::interrupted.
  explicit ResidentWeights(const ModelFile& file, ThreadPool& pool, const std::function<void(uint64_t)>& progress = {},
                           const std::atomic<bool>* stop = nullptr) {
    std::vector<Buffer> buffers;
    for (const FileRecord& r : file.records()) buffers.emplace_back(r.bytes);
    read(file, buffers, pool, progress, stop);
    for (size_t r = 0; r < file.records().size(); ++r) bind(file, r, std::move(buffers[r]));
  }

  void begin_sweep(const SweepOrder&) override {}
  size_t n_blocks(TensorRef t) const override { return tensor(t).blocks.size(); }

  WeightView acquire(TensorRef t, size_t first, size_t last) override {
    const Tensor& x = tensor(t);
    return {x.dtype, x.rows, x.cols, std::span(x.blocks).subspan(first, last - first)};
  }
  void release(TensorRef, size_t, size_t) override {}

  WeightView acquire_rows(TensorRef t, std::span<const int32_t>) override { return acquire(t, 0, n_blocks(t)); }
  void release_rows(TensorRef) override {}

  const float* vector(TensorRef t) const override { return tensor(t).values.data(); }

 private:
  struct Tensor {
    DType dtype = DType::f32;
    int64_t rows = 0, cols = 0;
    std::vector<RowBlock> blocks;  // of a matrix
    std::vector<float> values;     // of a vector
  };

  const Tensor& tensor(TensorRef t) const { return tensors_[t.record][t.tensor]; }

  static constexpr uint64_t kPieceBytes = 4_MiB;  // about what a task reads, whole blocks
  static constexpr uint64_t kDirectBytes = 512_MiB;

  static void read(const ModelFile& file, std::vector<Buffer>& buffers, ThreadPool& pool, const std::function<void(uint64_t)>& progress,
                   const std::atomic<bool>* stop) {
    struct Piece {
      size_t record, first_block, last_block;
    };
    std::vector<Piece> pieces;
    for (size_t r = 0; r < buffers.size(); ++r) {
      const FileRecord& record = file.records()[r];
      uint64_t bytes = 0;
      size_t first = record.first_block;
      for (size_t b = first; b < record.first_block + record.n_blocks; ++b) {
        bytes += file.blocks()[b].bytes;
        if (bytes < kPieceBytes && b + 1 < record.first_block + record.n_blocks) continue;
        pieces.push_back({r, first, b + 1});
        first = b + 1, bytes = 0;
      }
    }
    // Large models bypass the page cache: reads into huge pages are then twice as fast, and nothing lies in memory twice. Small ones are
    // likely to be in the cache.
    File direct = File::open(file.file().path());
    const File& source = file.weight_bytes() >= kDirectBytes && direct.set_direct(true) ? direct : file.file();
    std::atomic<uint64_t> done{0};
    pool.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
      if (stop && stop->load(std::memory_order_relaxed)) fail(Fault::interrupted, "stopped while loading");
      const Piece& p = pieces[static_cast<size_t>(i)];
      const FileBlock &a = file.blocks()[p.first_block], &z = file.blocks()[p.last_block - 1];
      const uint64_t bytes = z.offset + z.bytes - a.offset;
      std::byte* dst = buffers[p.record].data() + (a.offset - file.records()[p.record].offset);
      source.read(a.offset, {dst, bytes});
      for (size_t b = p.first_block; b < p.last_block; ++b)
        file.verify_block(b, {dst + (file.blocks()[b].offset - a.offset), file.blocks()[b].bytes});
      if (progress) progress(done.fetch_add(bytes) + bytes);
    });
  }

  void bind(const ModelFile& file, size_t r, Buffer buffer) {
    const FileRecord& record = file.records()[r];
    auto& tensors = tensors_.emplace_back();
    for (size_t t = 0; t < record.n_tensors; ++t) {
      const FileTensor& x = file.tensors()[record.first_tensor + t];
      const std::byte* data = buffer.data() + (x.offset - record.offset);
      Tensor& out = tensors.emplace_back();
      out.dtype = x.dtype;
      if (x.shape.size() == 1) {
        out.values.resize(static_cast<size_t>(x.shape[0]));
        for (size_t i = 0; i < out.values.size(); ++i) out.values[i] = load_element(x.dtype, data, i);
        continue;
      }
      out.rows = x.shape[0], out.cols = x.shape[1];
      for (size_t b = 0; b < x.n_blocks; ++b) {
        const int64_t first = static_cast<int64_t>(b) * x.rows_per_block;
        const FileBlock& block = file.blocks()[x.first_block + b];
        out.blocks.push_back({buffer.data() + (block.offset - record.offset), first, std::min(x.rows_per_block, out.rows - first)});
      }
    }
    buffers_.push_back(std::move(buffer));
  }

  std::vector<Buffer> buffers_;                 // a record each
  std::vector<std::vector<Tensor>> tensors_;    // [record][tensor]
};

}  // namespace flexgen
