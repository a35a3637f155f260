// SPDX-License-Identifier: Apache-2.0
// A small model file with known values, for the tests of its reader: element e of tensor number t is t + e / 128 rounded to its dtype.
#pragma once

#include <string>
#include <vector>

#include "flexgen/format/model_writer.h"
#include "flexgen/tensor/half.h"

namespace flexgen::testing {

inline float small_model_value(size_t tensor, int64_t element) { return static_cast<float>(tensor) + static_cast<float>(element % 97) / 128; }

inline std::vector<PlannedRecord> small_model_records() {
  return {{"embed", {{"embed.tokens", DType::f16, {70, 32}}, {"embed.positions", DType::f32, {10, 32}}}},
          {"layers.0.attn",
           {{"layers.0.attn.norm.weight", DType::f32, {32}},
            {"layers.0.attn.norm.bias", DType::f16, {33}},
            {"layers.0.attn.qkv.weight", DType::bf16, {96, 32}},
            {"layers.0.attn.out.weight", DType::f16, {32, 31}}}},
          {"head", {{"head.norm.weight", DType::f32, {32}}}}};
}

inline constexpr uint64_t kSmallModelId = 0x1122334455667788u;
inline constexpr const char* kSmallModelJson = R"({"model":{"family":"opt"},"tokenizer":{"vocab.json":"{}"}})";

// writes it; json replaces the description
inline void write_small_model(const std::string& path, const std::string& json = kSmallModelJson, uint64_t alignment = 4096,
                              std::vector<PlannedRecord> records = small_model_records()) {
  FilePlan plan = plan_model_file(records, json.size(), alignment);
  const FileTensor* first = plan.tensors.data();
  write_model_file(path, json, plan,
                   [first](const FileTensor& t, int64_t row, int64_t rows, std::span<std::byte> dst, int) {
                     const int64_t cols = t.is_vector() ? 1 : t.shape[1];
                     for (int64_t e = 0; e < rows * cols; ++e)
                       store_element(t.dtype, dst.data(), static_cast<size_t>(e), small_model_value(static_cast<size_t>(&t - first), row * cols + e));
                   },
                   {.file_id = kSmallModelId, .overwrite = true, .workers = 2});
}

}  // namespace flexgen::testing
