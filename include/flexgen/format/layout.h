// SPDX-License-Identifier: Apache-2.0
// The model file (.flex), drawn. Little-endian, fixed-width fields. Every byte of a file is either covered by a hash or must be zero.
//
//   offset            bytes
//   0                 4096              FileHeader: page 0; its last 8 bytes hash the rest of it
//   4096              json.bytes        JSON text: model, tokenizer, generation, provenance           zeros to a multiple of 4096
//   index.offset      index.bytes       RecordEntry[n_records], then TensorEntry[n_tensors]           zeros to a multiple of 4096
//   table.offset      table.bytes       uint64 hash of each block, in file order                      zeros to a multiple of `alignment`
//   records_offset    ...               record 0                                                      zeros to a multiple of `alignment`
//   ...                                 record 1 ...                                                  zeros to a multiple of `alignment`
//   file_bytes                          end
//
//   a record          its vectors (biases, norms), each at a multiple of 256, in one block; then each matrix, row-major [rows, cols],
//                     as its row blocks: rows_per_block whole rows each, the last one fewer
//   a block           the unit of reading, hashing and placement; zeros to a multiple of 4096 inside the block, hashed with it
//
// Where a thing lies follows from what precedes it (format/file_plan.h): the offsets below are stored for other readers and must
// equal that place, so nothing can overlap.
//
// Hashes are XXH3-64. The header's is seeded with 0, those of the sections with file_id + 1, 2, 3 and cover the padding to 4096; that
// of block i is seeded with block_seed(file_id, i), so a right block at a wrong place, or of another file, is seen.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace flexgen::layout {

static_assert(std::endian::native == std::endian::little, "model files are read and written in place");

// As in PNG: a byte that is not text, line ends that a transfer in text mode would change, and Ctrl-Z
inline constexpr std::array<char, 8> kMagic{'\x89', 'F', 'L', 'E', 'X', '\r', '\n', '\x1a'};
inline constexpr uint32_t kVersion = 1;
inline constexpr uint64_t kPage = 4096;          // padding of sections and blocks
inline constexpr uint64_t kVectorAlign = 256;    // of vectors inside their block
inline constexpr std::array<uint64_t, 3> kAlignments{4096, 65536, 2097152};
inline constexpr uint32_t kRowMajor = 0;         // TensorEntry::layout; [rows, cols] with rows whole and in order

struct Section {
  uint64_t offset;  // multiple of 4096
  uint64_t bytes;   // used; zeros follow to a multiple of 4096
  uint64_t hash;    // of bytes and zeros
};
static_assert(sizeof(Section) == 24);
static_assert(offsetof(Section, offset) == 0);
static_assert(offsetof(Section, bytes) == 8);
static_assert(offsetof(Section, hash) == 16);

struct FileHeader {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t header_bytes;     // 4096
  uint64_t file_id;          // random, or from the seed of a synthetic model
  uint64_t file_bytes;       // of the whole file
  uint64_t alignment;        // of records: one of kAlignments
  uint64_t flags;            // 0; a reader refuses bits that it does not know
  uint32_t n_records;
  uint32_t n_tensors;
  uint64_t n_blocks;
  Section json;
  Section index;
  Section table;
  uint64_t records_offset;
  std::array<uint8_t, 3944> zero;
  uint64_t hash;             // of the 4088 bytes before it; at this place in every version
};
static_assert(sizeof(FileHeader) == 4096);
static_assert(offsetof(FileHeader, magic) == 0);
static_assert(offsetof(FileHeader, version) == 8);
static_assert(offsetof(FileHeader, header_bytes) == 12);
static_assert(offsetof(FileHeader, file_id) == 16);
static_assert(offsetof(FileHeader, file_bytes) == 24);
static_assert(offsetof(FileHeader, alignment) == 32);
static_assert(offsetof(FileHeader, flags) == 40);
static_assert(offsetof(FileHeader, n_records) == 48);
static_assert(offsetof(FileHeader, n_tensors) == 52);
static_assert(offsetof(FileHeader, n_blocks) == 56);
static_assert(offsetof(FileHeader, json) == 64);
static_assert(offsetof(FileHeader, index) == 88);
static_assert(offsetof(FileHeader, table) == 112);
static_assert(offsetof(FileHeader, records_offset) == 136);
static_assert(offsetof(FileHeader, zero) == 144);
static_assert(offsetof(FileHeader, hash) == 4088);

// Names: 1 to 63 of a-z 0-9 . _ and zeros to the end
using NameField = std::array<char, 64>;

struct RecordEntry {
  NameField name;
  uint64_t offset;           // multiple of alignment
  uint64_t bytes;            // of its blocks
  uint32_t first_tensor;     // in the tensor index
  uint32_t n_tensors;
  uint64_t first_block;      // in the table
  uint64_t n_blocks;
  std::array<uint8_t, 24> zero;
};
static_assert(sizeof(RecordEntry) == 128);
static_assert(offsetof(RecordEntry, name) == 0);
static_assert(offsetof(RecordEntry, offset) == 64);
static_assert(offsetof(RecordEntry, bytes) == 72);
static_assert(offsetof(RecordEntry, first_tensor) == 80);
static_assert(offsetof(RecordEntry, n_tensors) == 84);
static_assert(offsetof(RecordEntry, first_block) == 88);
static_assert(offsetof(RecordEntry, n_blocks) == 96);
static_assert(offsetof(RecordEntry, zero) == 104);

struct TensorEntry {
  NameField name;            // "<record>.<tensor>", unique
  uint32_t dtype;            // the value of flexgen::DType
  uint32_t layout;           // kRowMajor
  uint32_t rank;             // 1: a vector, 2: a matrix
  uint32_t record;
  std::array<uint64_t, 2> dims;  // [n, 0] or [rows, cols]
  uint64_t offset;           // of element 0
  uint64_t bytes;            // a vector's elements; a matrix's blocks with their padding
  uint64_t first_block;      // vectors: the record's first
  uint64_t rows_per_block;   // vectors: 0
};
static_assert(sizeof(TensorEntry) == 128);
static_assert(offsetof(TensorEntry, name) == 0);
static_assert(offsetof(TensorEntry, dtype) == 64);
static_assert(offsetof(TensorEntry, layout) == 68);
static_assert(offsetof(TensorEntry, rank) == 72);
static_assert(offsetof(TensorEntry, record) == 76);
static_assert(offsetof(TensorEntry, dims) == 80);
static_assert(offsetof(TensorEntry, offset) == 96);
static_assert(offsetof(TensorEntry, bytes) == 104);
static_assert(offsetof(TensorEntry, first_block) == 112);
static_assert(offsetof(TensorEntry, rows_per_block) == 120);

// Neighbouring numbers give seeds far apart: multiples of an odd constant (2^64 over the golden ratio) are all different.
constexpr uint64_t block_seed(uint64_t file_id, uint64_t block) { return file_id ^ (block + 1) * 0x9E3779B97F4A7C15u; }

}  // namespace flexgen::layout
