// SPDX-License-Identifier: Apache-2.0
// Writer of model files. Each worker carries one block at a time from its source to its place: fill, hash, write. So reading, converting
// and writing overlap, and memory is a few blocks whatever the model's size. The header goes last, after everything else is on the disk.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "flexgen/base/thread_pool.h"
#include "flexgen/base/xxhash.h"
#include "flexgen/format/file_plan.h"
#include "flexgen/format/output_file.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

struct PlannedTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;  // [n] or [rows, cols]
};

struct PlannedRecord {
  std::string name;
  std::vector<PlannedTensor> tensors;  // vectors first
};

// The largest alignment whose padding stays below an eighth of the weights: 2 MiB for real models, less for small ones
inline uint64_t choose_alignment(std::span<const PlannedRecord> records) {
  uint64_t bytes = 0;
  for (const PlannedRecord& r : records)
    for (const PlannedTensor& t : r.tensors) {
      uint64_t n = size_of(t.dtype);
      for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
      bytes += n;
    }
  for (size_t i = layout::kAlignments.size(); i-- > 1;)
    if (records.size() * layout::kAlignments[i] / 2 <= bytes / 8) return layout::kAlignments[i];
  return layout::kAlignments[0];
}

// Blocks are about one alignment unit: 2 MiB in real models.
inline FilePlan plan_model_file(std::span<const PlannedRecord> records, uint64_t json_bytes, uint64_t alignment) {
  Placement placement("model file", alignment, UINT64_MAX, uint64_t{1} << 60);
  for (const PlannedRecord& r : records) {
    placement.record(r.name);
    for (const PlannedTensor& t : r.tensors) {
      const bool matrix = t.shape.size() == 2;
      const uint64_t row_bytes = static_cast<uint64_t>(t.shape.back()) * size_of(t.dtype);
      placement.tensor(t.name, t.dtype, t.shape, matrix ? rows_in_block(row_bytes, t.shape[0], alignment) : 0);
    }
  }
  return placement.finish(json_bytes);
}

// Writes rows [first_row, first_row + rows) of the tensor to dst, row-major, in its dtype; a vector's "rows" are its elements.
// worker in [0, workers). thread: several at once, on different workers
using FillRows = std::function<void(const FileTensor& tensor, int64_t first_row, int64_t rows, std::span<std::byte> dst, int worker)>;

struct WriteOptions {
  uint64_t file_id = 0;
  bool overwrite = false;
  int workers = 4;                                // blocking readers and writers: more than cores, so that the disk always has work
  const std::atomic<bool>* stop = nullptr;        // polled before each block; set: Fault::interrupted, and nothing is left
  std::atomic<uint64_t>* done_bytes = nullptr;    // grows to plan.weight_bytes()
  std::function<void()> before_commit{};          // all blocks were filled; what it throws keeps the file from appearing
};

namespace detail {

// vector blocks: every vector of the record, each at its place
inline void fill_block(const FilePlan& plan, size_t block, const FileTensor& tensor, const FillRows& fill, std::span<std::byte> dst, int worker) {
  if (!tensor.is_vector()) {
    const int64_t first = static_cast<int64_t>(block - tensor.first_block) * tensor.rows_per_block;
    const int64_t rows = std::min(tensor.rows_per_block, tensor.shape[0] - first);
    const size_t used = static_cast<size_t>(rows) * tensor.row_bytes();
    fill(tensor, first, rows, dst.first(used), worker);
    std::memset(dst.data() + used, 0, dst.size() - used);
    return;
  }
  std::memset(dst.data(), 0, dst.size());
  const FileRecord& record = plan.records[tensor.record];
  for (size_t i = record.first_tensor; i < record.first_tensor + record.n_tensors && plan.tensors[i].is_vector(); ++i) {
    const FileTensor& t = plan.tensors[i];
    fill(t, 0, t.shape[0], dst.subspan(t.offset - plan.blocks[block].offset, t.bytes), worker);
  }
}

inline void put_name(layout::NameField& field, const std::string& name) { std::memcpy(field.data(), name.data(), name.size()); }

inline std::vector<std::byte> index_bytes(const FilePlan& plan) {
  std::vector<std::byte> out(plan.index_bytes);
  std::byte* at = out.data();
  for (const FileRecord& r : plan.records) {
    layout::RecordEntry e{};
    put_name(e.name, r.name);
    e.offset = r.offset, e.bytes = r.bytes;
    e.first_tensor = static_cast<uint32_t>(r.first_tensor), e.n_tensors = static_cast<uint32_t>(r.n_tensors);
    e.first_block = r.first_block, e.n_blocks = r.n_blocks;
    std::memcpy(at, &e, sizeof(e));
    at += sizeof(e);
  }
  for (const FileTensor& t : plan.tensors) {
    layout::TensorEntry e{};
    put_name(e.name, t.name);
    e.dtype = static_cast<uint32_t>(t.dtype), e.layout = layout::kRowMajor;
    e.rank = static_cast<uint32_t>(t.shape.size()), e.record = static_cast<uint32_t>(t.record);
    for (size_t i = 0; i < t.shape.size(); ++i) e.dims[i] = static_cast<uint64_t>(t.shape[i]);
    e.offset = t.offset, e.bytes = t.bytes, e.first_block = t.first_block;
    e.rows_per_block = static_cast<uint64_t>(t.rows_per_block);
    std::memcpy(at, &e, sizeof(e));
    at += sizeof(e);
  }
  return out;
}

// bytes and the zeros after them at offset; returns what the header says about it
inline layout::Section write_section(const File& file, uint64_t offset, std::span<const std::byte> bytes, uint64_t seed) {
  const Buffer padded(round_up<uint64_t>(bytes.size(), layout::kPage));
  std::copy_n(bytes.begin(), std::min(bytes.size(), padded.size()), padded.data());
  file.write(offset, padded.bytes());
  return {offset, bytes.size(), XXH3_64bits_withSeed(padded.data(), padded.size(), seed)};
}

}  // namespace detail

// json is the description whose length the plan was made for. Blocks' hashes are filled in.
inline void write_model_file(const std::string& path, const std::string& json, FilePlan& plan, const FillRows& fill, const WriteOptions& options) {
  FG_CHECK(json.size() == plan.json_bytes, "{} bytes of JSON, {} were planned", json.size(), plan.json_bytes);
  OutputFile output(path, plan.file_bytes, options.overwrite);
  const File& file = output.file();

  std::vector<uint32_t> tensor_of(plan.blocks.size());
  uint64_t largest = layout::kPage;
  for (size_t i = plan.tensors.size(); i-- > 0;)
    for (size_t b = 0; b < plan.tensors[i].n_blocks; ++b) tensor_of[plan.tensors[i].first_block + b] = static_cast<uint32_t>(i);
  for (const FileBlock& b : plan.blocks) largest = std::max(largest, b.bytes);

  ThreadPool pool(options.workers);
  std::vector<Buffer> buffers;
  for (int i = 0; i < pool.size(); ++i) buffers.emplace_back(largest);
  pool.parallel_for(static_cast<int64_t>(plan.blocks.size()), [&](int64_t i, int worker) {
    if (options.stop && options.stop->load(std::memory_order_relaxed)) fail(Fault::interrupted, "{}: interrupted; nothing was written", path);
    FileBlock& block = plan.blocks[static_cast<size_t>(i)];
    const std::span<std::byte> bytes = buffers[static_cast<size_t>(worker)].bytes().first(block.bytes);
    detail::fill_block(plan, static_cast<size_t>(i), plan.tensors[tensor_of[static_cast<size_t>(i)]], fill, bytes, worker);
    block.hash = XXH3_64bits_withSeed(bytes.data(), bytes.size(), layout::block_seed(options.file_id, static_cast<uint64_t>(i)));
    file.write(block.offset, bytes);
    if (options.done_bytes) options.done_bytes->fetch_add(block.bytes, std::memory_order_relaxed);
  });

  if (options.before_commit) options.before_commit();

  layout::FileHeader header{};
  header.magic = layout::kMagic;
  header.version = layout::kVersion;
  header.header_bytes = sizeof(header);
  header.file_id = options.file_id;
  header.file_bytes = plan.file_bytes;
  header.alignment = plan.alignment;
  header.n_records = static_cast<uint32_t>(plan.records.size());
  header.n_tensors = static_cast<uint32_t>(plan.tensors.size());
  header.n_blocks = plan.blocks.size();
  header.records_offset = plan.records_offset;
  std::vector<uint64_t> hashes;
  for (const FileBlock& b : plan.blocks) hashes.push_back(b.hash);
  header.json = detail::write_section(file, layout::kPage, std::as_bytes(std::span(json)), options.file_id + 1);
  header.index = detail::write_section(file, plan.index_offset, detail::index_bytes(plan), options.file_id + 2);
  header.table = detail::write_section(file, plan.table_offset, std::as_bytes(std::span(hashes)), options.file_id + 3);
  header.hash = XXH3_64bits_withSeed(&header, offsetof(layout::FileHeader, hash), 0);
  file.sync();
  detail::write_section(file, 0, std::as_bytes(std::span(&header, 1)), 0);
  output.commit();
}

}  // namespace flexgen
