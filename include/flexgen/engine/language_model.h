// SPDX-License-Identifier: Apache-2.0
// A model file that was opened: what it describes, and its tokenizer. Its weights are read by others (engine/offload.h).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "flexgen/format/model_file.h"
#include "flexgen/model/description_json.h"
#include "flexgen/text/tokenizer.h"

namespace flexgen {

// movable; not while something refers to it
class LanguageModel {
 public:
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

 private:
  std::optional<Tokenizer> read_tokenizer() const {
    const auto at = file_.description().find("tokenizer");
    if (at == file_.description().end() || at->empty()) return std::nullopt;
    return Tokenizer::from_files(at->get<std::map<std::string, std::string>>(), file_.file().path());
  }

  ModelFile file_;
  ModelDescription description_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace flexgen
