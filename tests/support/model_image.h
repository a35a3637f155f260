// SPDX-License-Identifier: Apache-2.0
// A model file in memory that can be changed at will: fields as structs, and all hashes made right again, so that what a reader says
// about the change is not "damaged".
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "flexgen/base/xxhash.h"
#include "flexgen/format/model_file.h"
#include "support/memory_file.h"

namespace flexgen::testing {

class ModelImage {
 public:
  explicit ModelImage(std::string bytes) : bytes_(std::move(bytes)) {}

  std::string& bytes() { return bytes_; }
  layout::FileHeader& header() { return *at<layout::FileHeader>(0); }
  layout::RecordEntry& record(size_t i) { return *at<layout::RecordEntry>(header().index.offset + i * sizeof(layout::RecordEntry)); }
  layout::TensorEntry& tensor(size_t i) {
    return *at<layout::TensorEntry>(header().index.offset + header().n_records * sizeof(layout::RecordEntry) + i * sizeof(layout::TensorEntry));
  }
  // replaces the JSON text; shorter than a page, as the one before
  void set_json(std::string_view text) {
    std::memset(bytes_.data() + layout::kPage, 0, layout::kPage);
    std::memcpy(bytes_.data() + layout::kPage, text.data(), text.size());
    header().json.bytes = text.size();
  }

  // makes the hashes of the sections and of the header right, as far as the sections lie in the file
  ModelImage& seal() {
    if (bytes_.size() < sizeof(layout::FileHeader)) return *this;
    uint64_t number = 0;
    for (layout::Section* s : {&header().json, &header().index, &header().table}) {
      ++number;
      if (s->bytes > bytes_.size() || s->offset > bytes_.size()) continue;
      const uint64_t padded = round_up(s->bytes, layout::kPage);
      if (s->offset + padded <= bytes_.size()) s->hash = XXH3_64bits_withSeed(bytes_.data() + s->offset, padded, header().file_id + number);
    }
    return seal_header();
  }
  ModelImage& seal_header() {
    header().hash = XXH3_64bits_withSeed(bytes_.data(), offsetof(layout::FileHeader, hash), 0);
    return *this;
  }

  ModelFile open() const { return ModelFile::open(memory_file(bytes_, "m.flex")); }

 private:
  template <typename T>
  T* at(uint64_t offset) { return reinterpret_cast<T*>(bytes_.data() + offset); }  // offsets are multiples of 128 in a string's heap block

  std::string bytes_;
};

}  // namespace flexgen::testing
