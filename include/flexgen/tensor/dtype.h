// SPDX-License-Identifier: Apache-2.0
// Number formats of stored tensors. The numeric values are part of the model file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace flexgen {

enum class DType : uint32_t { f32 = 0, f16 = 1, bf16 = 2 };

constexpr size_t size_of(DType t) { return t == DType::f32 ? 4 : 2; }  // bytes

constexpr std::string_view name(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
  }
  return "?";
}

constexpr std::optional<DType> try_dtype(std::string_view s) {
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (name(t) == s) return t;
  return std::nullopt;
}

}  // namespace flexgen
