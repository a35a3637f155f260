// SPDX-License-Identifier: Apache-2.0
// Where everything lies in a model file (format/layout.h), as a function of the names, dtypes, shapes and rows per block alone. The
// writer places tensors with it; the reader places what an index lists in the same way and refuses an index that says otherwise.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/format/layout.h"
#include "flexgen/tensor/dtype.h"
#include "flexgen/tensor/shape.h"

namespace flexgen {

// Row block: whole rows of one matrix, or all vectors of a record; padded with zeros to a multiple of 4096 bytes
struct FileBlock {
  uint64_t offset = 0;  // in the file
  uint64_t bytes = 0;   // padding included
  uint64_t hash = 0;
};

struct FileTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;                 // [n] or [rows, cols]
  uint64_t offset = 0;         // of element 0, in the file
  uint64_t bytes = 0;          // a vector's elements; a matrix's blocks with their padding
  size_t record = 0;
  size_t first_block = 0;
  size_t n_blocks = 0;
  int64_t rows_per_block = 0;  // 0: a vector, in its record's first block

  bool is_vector() const { return shape.size() == 1; }
  uint64_t row_bytes() const { return static_cast<uint64_t>(shape.back()) * size_of(dtype); }
};

struct FileRecord {
  std::string name;
  uint64_t offset = 0;  // in the file, a multiple of the file's alignment
  uint64_t bytes = 0;   // of its blocks
  size_t first_block = 0;
  size_t n_blocks = 0;
  size_t first_tensor = 0;
  size_t n_tensors = 0;
};

struct FilePlan {
  uint64_t alignment = 0;
  uint64_t json_bytes = 0;
  uint64_t index_offset = 0, index_bytes = 0;
  uint64_t table_offset = 0, table_bytes = 0;
  uint64_t records_offset = 0;
  uint64_t file_bytes = 0;
  std::vector<FileRecord> records;
  std::vector<FileTensor> tensors;
  std::vector<FileBlock> blocks;

  uint64_t weight_bytes() const {  // blocks alone
    return std::accumulate(records.begin(), records.end(), uint64_t{0}, [](uint64_t sum, const FileRecord& r) { return sum + r.bytes; });
  }
};

// Rows of row_bytes each that make a block of about block_bytes and, where that does not take more than twice as many, a whole number
// of 4 KiB pages, so that blocks follow each other without padding
inline int64_t rows_in_block(uint64_t row_bytes, int64_t rows, uint64_t block_bytes) {
  const uint64_t unit = layout::kPage / std::gcd(row_bytes, layout::kPage);
  const uint64_t units = block_bytes / (unit * row_bytes);
  const uint64_t n = units > 0 ? units * unit : unit * row_bytes <= 2 * block_bytes ? unit : std::max<uint64_t>(1, block_bytes / row_bytes);
  return static_cast<int64_t>(std::min(n, static_cast<uint64_t>(rows)));
}

class Placement {
 public:
  // Places that need more than max_blocks or max_bytes are a Fault::checkpoint; source is named in messages.
  Placement(std::string source, uint64_t alignment, uint64_t max_blocks, uint64_t max_bytes)
      : source_(std::move(source)), max_blocks_(max_blocks), max_bytes_(max_bytes) {
    if (std::find(layout::kAlignments.begin(), layout::kAlignments.end(), alignment) == layout::kAlignments.end())
      fail(Fault::checkpoint, "{}: alignment: found {}, allowed 4096, 65536 or 2097152. Convert the model again", source_, alignment);
    plan_.alignment = alignment;
  }

  // tensors of it follow
  void record(std::string_view name) {
    check_name("record", name);
    close_record();
    plan_.records.push_back({std::string(name), at_, 0, plan_.blocks.size(), 0, plan_.tensors.size(), 0});
  }

  // shape [n] or [rows, cols]; rows_per_block 0 for a vector. Vectors precede matrices.
  void tensor(std::string_view name, DType dtype, const Shape& shape, int64_t rows_per_block) {
    check_name("tensor", name);
    FG_CHECK(!plan_.records.empty(), "tensor '{}' before any record", name);
    FileRecord& record = plan_.records.back();
    FileTensor t{std::string(name), dtype, shape, 0, 0, plan_.records.size() - 1, 0, 0, rows_per_block};
    if (shape.empty() || shape.size() > 2)
      fail(Fault::checkpoint, "{}: tensor '{}': found {} dimensions, allowed 1 or 2", source_, name, shape.size());
    for (const int64_t d : shape)
      if (d < 1) fail(Fault::checkpoint, "{}: tensor '{}': found shape {}, allowed dimensions of at least 1", source_, name, to_string(shape));
    const uint64_t row_bytes = bounded(name, checked_mul(static_cast<uint64_t>(shape.back()), size_of(dtype), label(name)));
    if (t.is_vector()) {
      if (rows_per_block != 0) fail(Fault::checkpoint, "{}: tensor '{}': a vector has {} rows per block, allowed 0", source_, name, rows_per_block);
      if (record.n_blocks > 1 || (record.n_blocks == 1 && !last_is_vectors_))
        fail(Fault::checkpoint, "{}: tensor '{}': a vector follows a matrix; vectors come first in their record", source_, name);
      t.bytes = row_bytes;
      place_vector(t, record);
    } else {
      if (rows_per_block < 1 || rows_per_block > shape[0])
        fail(Fault::checkpoint, "{}: tensor '{}': found {} rows per block, allowed 1 to {}", source_, name, rows_per_block, shape[0]);
      place_matrix(t, record, row_bytes);
    }
    ++record.n_tensors;
    plan_.tensors.push_back(std::move(t));
  }

  // Moves the records behind the header, json_bytes of JSON, the index and the table.
  FilePlan finish(uint64_t json_bytes) {
    close_record();
    plan_.json_bytes = json_bytes;
    plan_.index_offset = round_up(layout::kPage + json_bytes, layout::kPage);
    plan_.index_bytes = plan_.records.size() * sizeof(layout::RecordEntry) + plan_.tensors.size() * sizeof(layout::TensorEntry);
    plan_.table_offset = round_up(plan_.index_offset + plan_.index_bytes, layout::kPage);
    plan_.table_bytes = plan_.blocks.size() * sizeof(uint64_t);
    plan_.records_offset = round_up(plan_.table_offset + plan_.table_bytes, plan_.alignment);
    plan_.file_bytes = plan_.records_offset + at_;
    for (FileRecord& r : plan_.records) r.offset += plan_.records_offset;
    for (FileTensor& t : plan_.tensors) t.offset += plan_.records_offset;
    for (FileBlock& b : plan_.blocks) b.offset += plan_.records_offset;
    return std::move(plan_);
  }

 private:
  void check_name(std::string_view what, std::string_view name) const {
    const bool good = !name.empty() && name.size() < sizeof(layout::NameField) && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_';
    });
    if (!good) fail(Fault::checkpoint, "{}: {} name: found '{}', allowed 1 to 63 of a-z, 0-9, '.' and '_'", source_, what, printable(name));
  }

  std::string label(std::string_view name) const { return fmt::format("{}: tensor '{}'", source_, name); }

  uint64_t bounded(std::string_view name, uint64_t bytes) const {
    if (bytes > max_bytes_ || at_ > max_bytes_ - bytes)
      fail(Fault::checkpoint, "{}: tensor '{}': {} bytes from byte {} of the records on go beyond the {} bytes there are", source_, name,
           with_commas(bytes), with_commas(at_), with_commas(max_bytes_));
    return bytes;
  }

  void place_vector(FileTensor& t, FileRecord& record) {
    if (record.n_blocks == 0) add_block(t.name, record, 0), last_is_vectors_ = true, vector_end_ = 0;
    FileBlock& block = plan_.blocks.back();
    const uint64_t start = round_up(vector_end_, layout::kVectorAlign);
    vector_end_ = start + t.bytes;
    bounded(t.name, round_up(vector_end_, layout::kPage) - block.bytes);
    at_ += round_up(vector_end_, layout::kPage) - block.bytes;
    block.bytes = round_up(vector_end_, layout::kPage);
    t.offset = block.offset + start;
    t.first_block = record.first_block;
    t.n_blocks = 1;
  }

  void place_matrix(FileTensor& t, FileRecord& record, uint64_t row_bytes) {
    const auto rows = static_cast<uint64_t>(t.shape[0]);
    const auto per_block = static_cast<uint64_t>(t.rows_per_block);
    const uint64_t n_blocks = div_up(rows, per_block);
    if (n_blocks > max_blocks_ - plan_.blocks.size())
      fail(Fault::checkpoint, "{}: tensor '{}': {} blocks after {} others are more than the {} there are", source_, t.name, n_blocks,
           plan_.blocks.size(), max_blocks_);
    bounded(t.name, checked_mul(rows, row_bytes, label(t.name)));
    t.offset = at_;
    t.first_block = plan_.blocks.size();
    t.n_blocks = n_blocks;
    for (uint64_t row = 0; row < rows; row += per_block) {
      const uint64_t bytes = bounded(t.name, round_up(std::min(per_block, rows - row) * row_bytes, layout::kPage));
      add_block(t.name, record, bytes);
      at_ += bytes;
    }
    t.bytes = at_ - t.offset;
    last_is_vectors_ = false;
  }

  void add_block(std::string_view name, FileRecord& record, uint64_t bytes) {
    if (plan_.blocks.size() >= max_blocks_) fail(Fault::checkpoint, "{}: tensor '{}': the file has only {} blocks", source_, name, max_blocks_);
    plan_.blocks.push_back({at_, bytes, 0});
    ++record.n_blocks;
  }

  void close_record() {
    if (plan_.records.empty()) return;
    FileRecord& r = plan_.records.back();
    if (r.n_tensors == 0) fail(Fault::checkpoint, "{}: record '{}' has no tensors", source_, r.name);
    r.bytes = at_ - r.offset;
    at_ = round_up(at_, plan_.alignment);
  }

  std::string source_;
  uint64_t max_blocks_, max_bytes_;
  FilePlan plan_;
  uint64_t at_ = 0;           // from the start of the records
  uint64_t vector_end_ = 0;   // in the open block of vectors
  bool last_is_vectors_ = false;
};

}  // namespace flexgen
