// SPDX-License-Identifier: Apache-2.0
// A model file ready for use: what it describes, its weights in memory, its tokenizer.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "flexgen/base/bytes.h"
#include "flexgen/format/model_file.h"
#include "flexgen/memory/system_memory.h"
#include "flexgen/model/description_json.h"
#include "flexgen/runtime/resident_weights.h"
#include "flexgen/text/tokenizer.h"

namespace flexgen {

// movable; not while something refers to it
class LanguageModel {
 public:
  // Header, description and tokenizer; the weights stay on disk until load_weights.
  explicit LanguageModel(const std::string& path)
      : file_(ModelFile::open(path)), description_(stored_description(file_)), tokenizer_(read_tokenizer()) {}

  const ModelFile& file() const { return file_; }
  const ModelDescription& description() const { return description_; }
  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }  // null where the file has none

  // The number format of the layers' matrices: what decides the cache's when nobody says otherwise (f32 for f32, else f16)
  DType weight_dtype() const {
    const FileTensor* t = file_.find(attention_record(0) + ".qkv.weight");
    return t ? t->dtype : DType::f32;
  }
  DType default_kv_dtype() const { return weight_dtype() == DType::f32 ? DType::f32 : DType::f16; }

  // Reads all weights, verified. What does not fit into available_bytes is a Fault::space that says how much is missing, before anything is read.
  void load_weights(ThreadPool& pool, uint64_t available_bytes, const std::function<void(uint64_t)>& progress = {}, const std::atomic<bool>* stop = nullptr) {
    if (const uint64_t need = file_.weight_bytes(); need > available_bytes)
      fail(Fault::space, "{}: its weights need {} of memory, {} are free: {} are missing. Use a smaller model, or more memory", file_.file().path(),
           format_bytes(need), format_bytes(available_bytes), format_bytes(need - available_bytes));
    weights_ = std::make_unique<ResidentWeights>(file_, pool, progress, stop);
  }
  WeightStream& weights() const {
    FG_CHECK(weights_ != nullptr, "the weights are not loaded");
    return *weights_;
  }

 private:
  std::optional<Tokenizer> read_tokenizer() const {
    const auto at = file_.description().find("tokenizer");
    if (at == file_.description().end() || at->empty()) return std::nullopt;
    return Tokenizer::from_files(at->get<std::map<std::string, std::string>>(), file_.file().path());
  }

  ModelFile file_;
  ModelDescription description_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<ResidentWeights> weights_;
};

}  // namespace flexgen
