// SPDX-License-Identifier: Apache-2.0
// Reader of model files (.flex; format/layout.h draws them). Opening reads header, JSON, index and hash table, checks their hashes and
// every field against the one place it can have, and takes milliseconds for any model; weights are checked block by block as they are
// read. Nothing in the file is trusted: counts are held against the bytes that are there before memory is asked for.
#pragma once

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "flexgen/base/xxhash.h"
#include "flexgen/format/file_plan.h"
#include "flexgen/format/json.h"
#include "flexgen/io/file.h"

namespace flexgen {

class ModelFile {
 public:
  static constexpr uint64_t kMaxJson = 64_MiB;  // of the description

  // Not a model file, of another version, or contradicting itself: Fault::checkpoint. A hash or the length differs: Fault::damaged.
  static ModelFile open(const std::string& path) { return open(File::open(path)); }
  static ModelFile open(File file);

  const File& file() const { return file_; }
  uint64_t id() const { return header_.file_id; }
  uint64_t alignment() const { return header_.alignment; }
  const nlohmann::json& description() const { return description_; }  // an object with "model", and maybe "tokenizer", "generation", "provenance"
  std::span<const FileRecord> records() const { return plan_.records; }
  std::span<const FileTensor> tensors() const { return plan_.tensors; }
  std::span<const FileBlock> blocks() const { return plan_.blocks; }
  uint64_t weight_bytes() const { return plan_.weight_bytes(); }
  // null where there is none
  const FileTensor* find(std::string_view name) const {
    const auto it = by_name_.find(std::string(name));
    return it == by_name_.end() ? nullptr : &plan_.tensors[it->second];
  }

  // of block i, whose bytes are here. thread: any
  uint64_t block_hash(size_t i, std::span<const std::byte> bytes) const {
    FG_CHECK(i < plan_.blocks.size() && bytes.size() == plan_.blocks[i].bytes, "block {} of {}, {} bytes", i, plan_.blocks.size(), bytes.size());
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), block_seed(i));
  }
  uint64_t block_seed(size_t i) const { return layout::block_seed(header_.file_id, i); }  // of its hash

  // bytes are block i as written. thread: any
  bool block_intact(size_t i, std::span<const std::byte> bytes) const { return block_hash(i, bytes) == plan_.blocks[i].hash; }

  // bytes are block i as read; throws Fault::damaged naming tensor, block and offset where they are not what was written.
  // thread: any
  void verify_block(size_t i, std::span<const std::byte> bytes) const { verify_block_hash(i, block_hash(i, bytes)); }
  // found: of block i as read
  void verify_block_hash(size_t i, uint64_t found) const {
    const FileBlock& block = plan_.blocks[i];
    if (found != block.hash)
      fail(Fault::damaged,
           "{}: weights damaged: {}, block {}, bytes {} to {} of the file: found hash {:016x}, expected {:016x}. Copy or convert it again",
           file_.path(), block_owner(i), i, block.offset, block.offset + block.bytes - 1, found, block.hash);
  }

  // "tensor 'layers.0.mlp.fc1.weight', rows 128 to 255", or "vectors of record 'layers.0.mlp'"
  std::string block_owner(size_t i) const {
    const auto record = std::prev(std::upper_bound(plan_.records.begin(), plan_.records.end(), i,
                                                   [](size_t block, const FileRecord& r) { return block < r.first_block; }));
    for (size_t k = record->first_tensor; k < record->first_tensor + record->n_tensors; ++k) {
      const FileTensor& t = plan_.tensors[k];
      if (t.is_vector() || i < t.first_block || i >= t.first_block + t.n_blocks) continue;
      const int64_t row = static_cast<int64_t>(i - t.first_block) * t.rows_per_block;
      return fmt::format("tensor '{}', rows {} to {}", t.name, row, std::min(row + t.rows_per_block, t.shape[0]) - 1);
    }
    return fmt::format("vectors of record '{}'", record->name);
  }

  // The parts between sections and records, which hold zeros and belong to no block: (offset, bytes)
  std::vector<std::pair<uint64_t, uint64_t>> gaps() const {
    std::vector<std::pair<uint64_t, uint64_t>> out;
    uint64_t end = round_up(plan_.table_offset + plan_.table_bytes, layout::kPage);
    for (const FileRecord& r : plan_.records) {
      if (r.offset > end) out.emplace_back(end, r.offset - end);
      end = r.offset + r.bytes;
    }
    if (header_.file_bytes > end) out.emplace_back(end, header_.file_bytes - end);
    return out;
  }

 private:
  void read_header();
  std::vector<std::byte> read_section(const layout::Section& s, uint64_t number, std::string_view what) const;
  void read_index(std::span<const std::byte> index, std::span<const std::byte> table);
  void read_description(std::span<const std::byte> text);
  std::string_view name_of(const layout::NameField& field) const;
  template <typename T>
  void expect(std::string_view what, T found, T allowed) const {
    if (found != allowed) fail(Fault::checkpoint, "{}: {}: found {}, allowed {}. Convert the model again", file_.path(), what, found, allowed);
  }

  File file_;
  layout::FileHeader header_{};
  FilePlan plan_;
  nlohmann::json description_;
  std::unordered_map<std::string, size_t> by_name_;
};

namespace detail {

// What a file that is no model file looks like from its first bytes
inline std::string_view guess_format(std::string_view head) {
  const auto starts = [&](std::string_view s) { return head.substr(0, s.size()) == s; };
  if (starts("PK\x03\x04")) return "a zip archive, perhaps a PyTorch checkpoint";
  if (starts("GGUF")) return "a GGUF file";
  if (starts("\x80\x02") || starts("\x80\x03") || starts("\x80\x04")) return "a pickle, perhaps a legacy PyTorch checkpoint";
  if (starts("version https://git-lfs")) return "a Git LFS pointer; fetch the file itself with git lfs pull";
  if (starts("<")) return "a web page; download the file again";
  if (head.size() > 8 && head[8] == '{' && head.substr(4, 4) == std::string_view("\0\0\0\0", 4)) return "a safetensors file";
  return "an unknown format";
}

}  // namespace detail

inline ModelFile ModelFile::open(File file) {
  ModelFile m;
  m.file_ = std::move(file);
  m.read_header();
  const auto json = m.read_section(m.header_.json, 1, "JSON description");
  const auto index = m.read_section(m.header_.index, 2, "tensor index");
  const auto table = m.read_section(m.header_.table, 3, "hash table");
  m.read_index(std::span(index).first(m.header_.index.bytes), table);
  m.read_description(std::span(json).first(m.header_.json.bytes));
  return m;
}

inline void ModelFile::read_header() {
  const std::string& path = file_.path();
  if (file_.size() == 0) fail(Fault::checkpoint, "{}: is empty (0 bytes); a model file is expected. Make one with flexgen convert", path);
  const size_t there = std::min<uint64_t>(file_.size(), sizeof(header_));
  file_.read(0, std::as_writable_bytes(std::span(&header_, 1)).first(there));
  const std::string_view head(reinterpret_cast<const char*>(&header_), there), magic(layout::kMagic.data(), layout::kMagic.size());
  if (head.substr(0, magic.size()) != magic.substr(0, std::min(there, magic.size())))
    fail(Fault::checkpoint, "{}: is not a flexgen model file: found {}. Make one with flexgen convert", path, detail::guess_format(head));
  if (there < sizeof(header_))
    fail(Fault::damaged, "{}: ends at byte {} inside its header of 4,096 bytes: truncated. Copy or convert it again", path, there);
  const uint64_t hash = XXH3_64bits_withSeed(&header_, offsetof(layout::FileHeader, hash), 0);
  if (hash != header_.hash)
    fail(Fault::damaged, "{}: header is damaged: found hash {:016x}, expected {:016x}. Copy or convert it again", path, hash, header_.hash);
  if (header_.version > layout::kVersion)
    fail(Fault::checkpoint, "{}: format version {} is newer than this program reads ({}). Update flexgen", path, header_.version, layout::kVersion);
  expect("format version", header_.version, layout::kVersion);
  expect<uint64_t>("header bytes", header_.header_bytes, sizeof(header_));
  expect<uint64_t>("flags", header_.flags, 0);
  if (header_.file_bytes != file_.size())
    fail(Fault::damaged, "{}: has {} bytes, its header says {}: {}. Copy or convert it again", path, with_commas(file_.size()),
         with_commas(header_.file_bytes), file_.size() < header_.file_bytes ? "truncated" : "something was appended");
  if (std::any_of(header_.zero.begin(), header_.zero.end(), [](uint8_t b) { return b != 0; }))
    fail(Fault::checkpoint, "{}: reserved bytes of the header are used. Update flexgen", path);
  // from here on sums cannot overflow: each part is held against the file's size before it is added
  const auto section = [&](std::string_view what, const layout::Section& s, uint64_t offset, uint64_t bytes) {
    expect(fmt::format("{} offset", what), s.offset, offset);
    expect(fmt::format("{} bytes", what), s.bytes, bytes);
    if (s.bytes > file_.size() || round_up(s.offset + s.bytes, layout::kPage) > file_.size())
      fail(Fault::checkpoint, "{}: {}: {} bytes at offset {} go beyond the file's {} bytes", path, what, s.bytes, s.offset, file_.size());
    return round_up(s.offset + s.bytes, layout::kPage);
  };
  if (header_.json.bytes > kMaxJson)
    fail(Fault::checkpoint, "{}: JSON description: found {} bytes, allowed {}", path, with_commas(header_.json.bytes), with_commas(kMaxJson));
  if (header_.n_blocks > file_.size() / layout::kPage)
    fail(Fault::checkpoint, "{}: {} blocks do not fit into {} bytes", path, with_commas(header_.n_blocks), with_commas(file_.size()));
  const uint64_t index_offset = section("JSON description", header_.json, layout::kPage, header_.json.bytes);
  const uint64_t index_bytes = sizeof(layout::RecordEntry) * header_.n_records + sizeof(layout::TensorEntry) * header_.n_tensors;
  const uint64_t table_offset = section("tensor index", header_.index, index_offset, index_bytes);
  section("hash table", header_.table, table_offset, sizeof(uint64_t) * header_.n_blocks);
}

// the section with the zeros after it, its hash checked
inline std::vector<std::byte> ModelFile::read_section(const layout::Section& s, uint64_t number, std::string_view what) const {
  std::vector<std::byte> bytes(round_up(s.bytes, layout::kPage));
  file_.read(s.offset, bytes);
  const uint64_t hash = XXH3_64bits_withSeed(bytes.data(), bytes.size(), header_.file_id + number);
  if (hash != s.hash)
    fail(Fault::damaged, "{}: {} is damaged, bytes {} to {} of the file: found hash {:016x}, expected {:016x}. Copy or convert it again",
         file_.path(), what, s.offset, s.offset + bytes.size() - 1, hash, s.hash);
  return bytes;
}

inline std::string_view ModelFile::name_of(const layout::NameField& field) const {
  const std::string_view all(field.data(), field.size());
  const std::string_view name = all.substr(0, all.find('\0'));
  if (name.size() == all.size() || all.find_first_not_of('\0', name.size()) != std::string_view::npos)
    fail(Fault::checkpoint, "{}: name field: found '{}', allowed up to 63 letters and zeros to the end", file_.path(), printable(all));
  return name;
}

inline void ModelFile::read_index(std::span<const std::byte> index, std::span<const std::byte> table) {
  std::vector<layout::RecordEntry> records(header_.n_records);
  std::vector<layout::TensorEntry> tensors(header_.n_tensors);
  const size_t record_bytes = sizeof(layout::RecordEntry) * records.size();
  if (!records.empty()) std::memcpy(records.data(), index.data(), record_bytes);
  if (!tensors.empty()) std::memcpy(tensors.data(), index.data() + record_bytes, index.size() - record_bytes);

  Placement placement(file_.path(), header_.alignment, header_.n_blocks, file_.size());
  size_t next = 0;  // tensor
  for (size_t r = 0; r < records.size(); ++r) {
    const layout::RecordEntry& record = records[r];
    const std::string_view record_name = name_of(record.name);
    placement.record(record_name);
    expect<uint64_t>(fmt::format("record '{}': first tensor", record_name), record.first_tensor, next);
    if (record.n_tensors > tensors.size() - next)
      fail(Fault::checkpoint, "{}: record '{}': {} tensors after {} others are more than the {} there are", file_.path(), record_name,
           record.n_tensors, next, tensors.size());
    for (size_t end = next + record.n_tensors; next < end; ++next) {
      const layout::TensorEntry& t = tensors[next];
      const std::string_view name = name_of(t.name);
      const auto refuse = [&](std::string_view what, uint64_t found, std::string_view allowed) {
        fail(Fault::checkpoint, "{}: tensor '{}': {}: found {}, allowed {}. Update flexgen or convert the model again", file_.path(), printable(name),
             what, found, allowed);
      };
      if (t.layout != layout::kRowMajor) refuse("layout", t.layout, "0 (row-major)");
      if (t.dtype > static_cast<uint32_t>(DType::bf16)) refuse("number format", t.dtype, "0 (f32), 1 (f16) or 2 (bf16)");
      if (t.rank != 1 && t.rank != 2) refuse("rank", t.rank, "1 or 2");
      if (t.record != r) refuse("record", t.record, std::to_string(r));
      if (t.rank == 1 && t.dims[1] != 0) refuse("second dimension of a vector", t.dims[1], "0");
      constexpr auto kMost = static_cast<uint64_t>(INT64_MAX);
      if (t.dims[0] > kMost || t.dims[1] > kMost || t.rows_per_block > kMost)
        refuse("size", std::max({t.dims[0], t.dims[1], t.rows_per_block}), "less than 2^63");
      Shape shape{static_cast<int64_t>(t.dims[0])};
      if (t.rank == 2) shape.push_back(static_cast<int64_t>(t.dims[1]));
      placement.tensor(name, static_cast<DType>(t.dtype), shape, static_cast<int64_t>(t.rows_per_block));
    }
  }
  if (next != tensors.size()) fail(Fault::checkpoint, "{}: {} tensors belong to no record", file_.path(), tensors.size() - next);

  plan_ = placement.finish(header_.json.bytes);
  expect("number of blocks", header_.n_blocks, uint64_t{plan_.blocks.size()});
  expect("offset of the records", header_.records_offset, plan_.records_offset);
  expect("file bytes", header_.file_bytes, plan_.file_bytes);
  for (size_t r = 0; r < records.size(); ++r) {
    const FileRecord& p = plan_.records[r];
    const auto same = [&](std::string_view what, uint64_t found, uint64_t allowed) {
      expect(fmt::format("record '{}': {}", p.name, what), found, allowed);
    };
    same("offset", records[r].offset, p.offset);
    same("bytes", records[r].bytes, p.bytes);
    same("first block", records[r].first_block, p.first_block);
    same("blocks", records[r].n_blocks, p.n_blocks);
    for (const uint8_t b : records[r].zero) same("reserved byte", b, 0);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const FileTensor& p = plan_.tensors[i];
    const auto same = [&](std::string_view what, uint64_t found, uint64_t allowed) {
      expect(fmt::format("tensor '{}': {}", p.name, what), found, allowed);
    };
    same("offset", tensors[i].offset, p.offset);
    same("bytes", tensors[i].bytes, p.bytes);
    same("first block", tensors[i].first_block, p.first_block);
    if (!by_name_.emplace(p.name, i).second) fail(Fault::checkpoint, "{}: tensor '{}' is listed twice", file_.path(), p.name);
  }
  for (size_t i = 0; i < plan_.blocks.size(); ++i) std::memcpy(&plan_.blocks[i].hash, table.data() + sizeof(uint64_t) * i, sizeof(uint64_t));
}

inline void ModelFile::read_description(std::span<const std::byte> text) {
  description_ = parse_json({reinterpret_cast<const char*>(text.data()), text.size()}, file_.path() + ": JSON description");
  const auto object = [&](std::string_view key, bool needed) {
    const auto it = description_.find(key);
    if (it == description_.end() ? needed : !it->is_object())
      fail(Fault::checkpoint, "{}: JSON description: '{}' must be an object. Convert the model again", file_.path(), key);
  };
  if (!description_.is_object()) fail(Fault::checkpoint, "{}: JSON description: found no object. Convert the model again", file_.path());
  object("model", true), object("tokenizer", false), object("generation", false), object("provenance", false);
  if (const auto it = description_.find("tokenizer"); it != description_.end())
    for (const auto& [name, content] : it->items())
      if (!content.is_string()) fail(Fault::checkpoint, "{}: JSON description: tokenizer file '{}' must be text", file_.path(), printable(name));
}

}  // namespace flexgen
