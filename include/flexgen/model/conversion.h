// SPDX-License-Identifier: Apache-2.0
// A HuggingFace folder to a model file: what goes where is known when the folder has been opened; writing then streams the weights
// through a few blocks of memory, whatever the model's size and however the checkpoint stores them.
#pragma once

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/base/xxhash.h"
#include "flexgen/format/checkpoint.h"
#include "flexgen/format/crc32.h"
#include "flexgen/format/crc32_combine.h"
#include "flexgen/format/json.h"
#include "flexgen/format/model_writer.h"
#include "flexgen/format/row_reader.h"
#include "flexgen/model/description_json.h"
#include "flexgen/model/opt_checkpoint.h"
#include "flexgen/model/opt_config.h"
#include "flexgen/tensor/convert.h"

namespace flexgen {

// Values of one tensor that somebody should know about
struct SuspectTensor {
  std::string name;
  uint64_t not_finite = 0;  // infinite or NaN in the checkpoint
  uint64_t overflowed = 0;  // finite there, infinite in the new number format
};

class Conversion {
 public:
  // Opens the checkpoint, holds it against its config.json and plans the model file. tokenizer: file name -> text, to be carried along;
  // dtype: of all weights, or each as stored; tool: name and version, for the provenance. throws Fault::checkpoint, Fault::io
  Conversion(const std::string& folder, const std::map<std::string, std::string>& tokenizer, std::optional<DType> dtype, const std::string& tool)
      : folder_(folder), config_text_(read_config(folder)), checkpoint_(Checkpoint::open(folder)) {
    const std::string config_path = folder + "/config.json";
    sources_ = opt_sources(checkpoint_, opt_description(parse_json(config_text_, config_path), config_path), config_path);
    json_ = file_description(sources_.description, tokenizer, generation_defaults(), provenance(tokenizer, tool), folder);
    size_t next = 0;
    for (const RecordSpec& r : flexgen::records(sources_.description)) {
      records_.push_back({r.name, {}});
      for (size_t i = 0; i < r.tensors.size(); ++i, ++next)
        records_.back().tensors.push_back({sources_.tensors[next].name, dtype.value_or(sources_.tensors[next].dtype), sources_.tensors[next].shape});
    }
    plan_ = plan_model_file(records_, json_.size(), choose_alignment(records_));
    for (size_t i = 0; i < checkpoint_.n_files(); ++i) readers_.push_back(checkpoint_.direct_reader(i));
    suspects_ = std::vector<Counts>(plan_.tensors.size());
  }
  Conversion(const Conversion&) = delete;
  Conversion& operator=(const Conversion&) = delete;

  const ModelDescription& model() const { return sources_.description; }
  const std::vector<std::string>& notes() const { return sources_.notes; }  // what was settled between config and checkpoint
  const FilePlan& plan() const { return plan_; }
  uint64_t total_bytes() const { return plan_.weight_bytes(); }  // what options.done_bytes grows to
  uint64_t source_bytes() const {                                // of the weight files
    uint64_t n = 0;
    for (size_t i = 0; i < checkpoint_.n_files(); ++i) n += checkpoint_.file(i).size();
    return n;
  }

  // Call once. Returns what was suspicious; errors as write_model_file's, and Fault::damaged for a tensor whose bytes are not those
  // that the archive (a PyTorch zip) has the checksum of
  std::vector<SuspectTensor> write(const std::string& path, const WriteOptions& options) {
    scratch_.clear();
    for (int i = 0; i < options.workers; ++i) scratch_.emplace_back();
    WriteOptions with_check = options;
    with_check.before_commit = [this, &options] {
      check_sums();
      if (options.before_commit) options.before_commit();
    };
    write_model_file(
        path, json_, plan_,
        [this](const FileTensor& t, int64_t row, int64_t rows, std::span<std::byte> dst, int worker) { fill(t, row, rows, dst, worker); },
        with_check);
    std::vector<SuspectTensor> found;
    for (size_t i = 0; i < suspects_.size(); ++i)
      if (suspects_[i].not_finite != 0 || suspects_[i].overflowed != 0)
        found.push_back({plan_.tensors[i].name, suspects_[i].not_finite, suspects_[i].overflowed});
    return found;
  }

 private:
  struct Counts {
    std::atomic<uint64_t> not_finite{0}, overflowed{0};
  };
  // CRC-32 of bytes [offset, offset + bytes) of a stored tensor
  struct Sum {
    uint64_t offset, bytes;
    uint32_t crc;
  };
  // Readers of tensors with gaps or in column order keep what they have read: few at a time, so that memory stays bounded
  struct StridedReader {
    const StoredTensor* tensor;
    std::unique_ptr<RowReader> reader;
  };
  static constexpr size_t kStridedReaders = 2;
  static constexpr size_t kPiece = 2_MiB;  // of source bytes read at once

  static std::string read_config(const std::string& folder) {
    std::error_code ignored;
    if (!std::filesystem::exists(folder, ignored)) fail(Fault::io, "{}: the folder does not exist or may not be read", folder);
    if (!std::filesystem::is_directory(folder, ignored))
      fail(Fault::usage, "{}: found a file, allowed a HuggingFace folder with config.json and weights. Give the folder that holds the checkpoint",
           folder);
    const std::string path = folder + "/config.json";
    if (!std::filesystem::exists(path, ignored))
      fail(Fault::checkpoint, "{}: config.json is missing. Give the HuggingFace folder that holds config.json and weights", folder);
    return read_text_file(path, 16_MiB);
  }

  nlohmann::json generation_defaults() const {
    const std::string path = folder_ + "/generation_config.json";
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return nlohmann::json::object();
    nlohmann::json json = parse_json(read_text_file(path, 16_MiB), path);
    if (!json.is_object()) fail(Fault::checkpoint, "{}: found {}, allowed an object", path, describe(json));
    return json;
  }

  static std::string hash(std::string_view bytes) { return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size())); }

  nlohmann::json provenance(const std::map<std::string, std::string>& tokenizer, const std::string& tool) const {
    nlohmann::json files = nlohmann::json::array();
    files.push_back({{"name", "config.json"}, {"bytes", config_text_.size()}, {"xxh3", hash(config_text_)}});
    for (const auto& [name, text] : tokenizer) files.push_back({{"name", name}, {"bytes", text.size()}, {"xxh3", hash(text)}});
    for (size_t i = 0; i < checkpoint_.n_files(); ++i) {  // of weights the first MiB: headers or pickles of most formats lie there
      const File& f = checkpoint_.file(i);
      std::string head(std::min<uint64_t>(f.size(), 1_MiB), '\0');
      f.read(0, std::as_writable_bytes(std::span(head)));
      files.push_back({{"name", base_name(f.path())}, {"bytes", f.size()}, {"xxh3_first_mib", hash(head)}});
    }
    return {{"tool", tool}, {"folder", base_name(folder_)}, {"files", std::move(files)}, {"config", config_text_}};
  }

  // the last part of a path, without bytes that JSON could not hold
  static std::string base_name(const std::string& path) {
    std::error_code ignored;
    const auto whole = std::filesystem::weakly_canonical(path, ignored);
    return printable(whole.filename().string());
  }

  void fill(const FileTensor& t, int64_t row, int64_t rows, std::span<std::byte> dst, int worker) {
    const auto index = static_cast<size_t>(&t - plan_.tensors.data());
    int64_t part_first = 0;
    for (const StoredTensor* part : sources_.tensors[index].parts) {
      const int64_t part_rows = part->shape.empty() ? 1 : part->shape[0];
      const int64_t first = std::max(row, part_first), last = std::min(row + rows, part_first + part_rows);
      if (first < last) {
        const size_t row_bytes = dst.size() / static_cast<size_t>(rows);
        copy_rows(*part, first - part_first, last - first,
                  dst.subspan(static_cast<size_t>(first - row) * row_bytes, static_cast<size_t>(last - first) * row_bytes), t.dtype, suspects_[index],
                  worker);
      }
      part_first += part_rows;
    }
  }

  void copy_rows(const StoredTensor& part, int64_t first, int64_t rows, std::span<std::byte> dst, DType to, Counts& counts, int worker) {
    const DType from = *part.dtype;
    const size_t n = dst.size() / size_of(to);
    if (!part.contiguous()) {
      std::vector<std::byte> values(n * size_of(from));
      read_strided(part, first, rows, values);
      put(from, values, to, dst, counts);
      return;
    }
    Buffer& scratch = scratch_[static_cast<size_t>(worker)];
    if (scratch.size() == 0) scratch = Buffer(DirectReader::buffer_bytes(kPiece));
    const uint64_t offset = part.offset + static_cast<uint64_t>(first) * (n / static_cast<size_t>(rows)) * size_of(from);
    for (size_t done = 0; done < n;) {
      const size_t piece = std::min(n - done, kPiece / size_of(from));
      const auto values = readers_[part.file].read(offset + done * size_of(from), piece * size_of(from), scratch);
      if (part.crc32) {
        const uint32_t crc = crc32(values);
        std::lock_guard lock(sums_mutex_);
        sums_[&part].push_back({offset + done * size_of(from), values.size(), crc});
      }
      put(from, values, to, dst.subspan(done * size_of(to), piece * size_of(to)), counts);
      done += piece;
    }
  }

  // the pieces of each tensor put together are its whole; their CRC must be the archive's
  void check_sums() {
    for (auto& [part, pieces] : sums_) {
      std::sort(pieces.begin(), pieces.end(), [](const Sum& a, const Sum& b) { return a.offset < b.offset; });
      uint32_t crc = 0;
      uint64_t bytes = 0;
      for (const Sum& s : pieces) crc = crc32_combine(crc, s.crc, s.bytes), bytes += s.bytes;
      FG_CHECK(bytes == part->bytes(), "{}: {} bytes of {} were read", part->name, bytes, part->bytes());
      if (crc != *part->crc32)
        fail(Fault::damaged, "{}: {} is damaged: found CRC {:08x}, the archive says {:08x}. Download it again", checkpoint_.path(*part),
             quoted(*part), crc, *part->crc32);
    }
  }

  static void put(DType from, std::span<const std::byte> values, DType to, std::span<std::byte> dst, Counts& counts) {
    convert_elements(from, values.data(), to, dst.data(), dst.size() / size_of(to));
    const uint64_t now = count_not_finite(to, dst);
    if (now == 0) return;  // what is not finite stays so
    const uint64_t before = count_not_finite(from, values);
    counts.not_finite += before;
    counts.overflowed += now - before;
  }

  void read_strided(const StoredTensor& part, int64_t first, int64_t rows, std::span<std::byte> dst) {
    std::lock_guard lock(strided_mutex_);
    auto at = std::find_if(strided_.begin(), strided_.end(), [&](const StridedReader& s) { return s.tensor == &part; });
    if (at == strided_.end()) {
      if (strided_.size() == kStridedReaders) strided_.pop_back();
      strided_.push_front({&part, std::make_unique<RowReader>(checkpoint_, part)});
      at = strided_.begin();
    }
    at->reader->read(first, rows, dst);
  }

  std::string folder_, config_text_;
  Checkpoint checkpoint_;
  ModelSources sources_;
  std::string json_;
  std::vector<PlannedRecord> records_;
  FilePlan plan_;
  std::vector<DirectReader> readers_;  // one a checkpoint file
  std::vector<Counts> suspects_;       // one a tensor
  std::vector<Buffer> scratch_;        // one a worker
  std::mutex sums_mutex_;
  std::map<const StoredTensor*, std::vector<Sum>> sums_;  // of tensors whose archive has a checksum; guarded by sums_mutex_
  std::mutex strided_mutex_;
  std::list<StridedReader> strided_;   // the latest first; guarded by strided_mutex_
};

}  // namespace flexgen
