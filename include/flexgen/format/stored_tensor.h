// SPDX-License-Identifier: Apache-2.0
// A tensor as a checkpoint stores it: where each element lies in which file. Nothing of it has been read. Readers build these
// through place_in_storage or check them against the file's own rules, so every element of a StoredTensor is inside its file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/tensor/dtype.h"
#include "flexgen/tensor/shape.h"

namespace flexgen {

// A number format under the names that checkpoints have for it
struct StoredFormat {
  std::string_view name;         // ours
  std::string_view safetensors;  // safetensors/src/tensor.rs, Dtype
  std::string_view torch;        // torch.<name>
  std::string_view storage;      // torch.<name>Storage
  unsigned bits;                 // per element
  std::optional<DType> dtype;    // of weights that the engine takes
};

inline constexpr std::array<StoredFormat, 22> kStoredFormats{{
    {"f32", "F32", "float32", "FloatStorage", 32, DType::f32},
    {"f16", "F16", "float16", "HalfStorage", 16, DType::f16},
    {"bf16", "BF16", "bfloat16", "BFloat16Storage", 16, DType::bf16},
    {"f64", "F64", "float64", "DoubleStorage", 64, {}},
    {"i64", "I64", "int64", "LongStorage", 64, {}},
    {"i32", "I32", "int32", "IntStorage", 32, {}},
    {"i16", "I16", "int16", "ShortStorage", 16, {}},
    {"i8", "I8", "int8", "CharStorage", 8, {}},
    {"u8", "U8", "uint8", "ByteStorage", 8, {}},
    {"bool", "BOOL", "bool", "BoolStorage", 8, {}},
    {"u64", "U64", "uint64", "", 64, {}},
    {"u32", "U32", "uint32", "", 32, {}},
    {"u16", "U16", "uint16", "", 16, {}},
    {"c64", "C64", "complex64", "ComplexFloatStorage", 64, {}},
    {"c128", "", "complex128", "ComplexDoubleStorage", 128, {}},
    {"f8_e5m2", "F8_E5M2", "float8_e5m2", "", 8, {}},
    {"f8_e4m3", "F8_E4M3", "float8_e4m3fn", "", 8, {}},
    {"f8_e8m0", "F8_E8M0", "float8_e8m0fnu", "", 8, {}},
    {"f8_e5m2fnuz", "F8_E5M2FNUZ", "float8_e5m2fnuz", "", 8, {}},
    {"f8_e4m3fnuz", "F8_E4M3FNUZ", "float8_e4m3fnuz", "", 8, {}},
    {"f6", "F6_E2M3", "", "", 6, {}},
    {"f4", "F4", "", "", 4, {}},
}};

struct StoredTensor {
  std::string name;
  std::optional<DType> dtype;       // nothing where dtype_name is not one that weights may have
  std::string dtype_name;           // of StoredFormat
  Shape shape;                      // [] is one element
  std::vector<int64_t> strides;     // elements, one a dimension, >= 0
  size_t file = 0;                  // index into the checkpoint's files
  uint64_t offset = 0;              // bytes from the start of the file, of element (0, 0, ...)
  std::optional<uint32_t> crc32{};  // of exactly this tensor's bytes, where it is contiguous and the archive records it
  std::string problem{};            // not empty: why the tensor cannot be read; the place fields mean nothing then

  int64_t numel() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
  // row-major without gaps: bytes [offset, offset + bytes()) of the file are the tensor
  bool contiguous() const {
    int64_t dense = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      if (shape[i] == 0) return true;
      if (shape[i] != 1 && strides[i] != dense) return false;
      dense *= shape[i];
    }
    return true;
  }
  // of the tensor laid out without gaps; the tensor has a dtype
  uint64_t bytes() const { return static_cast<uint64_t>(numel()) * size_of(*dtype); }
};

// "tensor 'w'", for messages
inline std::string quoted(const StoredTensor& t) { return fmt::format("tensor '{}'", printable(t.name)); }

inline constexpr size_t kMaxRank = 8;
inline constexpr int64_t kMaxDimension = int64_t{1} << 40;
// A tensor may show stored values more than once (expanded or overlapping views) only up to this size: a few stored bytes must not
// become terabytes.
inline constexpr uint64_t kMaxRepeatedBytes = 64_MiB;

// Elements of a shape; source and t.name say whose in messages. Every dimension is in [0, kMaxDimension], the product fits.
inline int64_t checked_numel(const StoredTensor& t, const std::string& source) {
  if (t.shape.size() > kMaxRank) fail(Fault::checkpoint, "{}: {}: found {} dimensions, allowed {}", source, quoted(t), t.shape.size(), kMaxRank);
  uint64_t n = 1;
  for (size_t i = 0; i < t.shape.size(); ++i) {
    if (t.shape[i] < 0 || t.shape[i] > kMaxDimension)
      fail(Fault::checkpoint, "{}: {}: dimension {}: found {}, allowed a whole number from 0 to {}", source, quoted(t), i, t.shape[i], kMaxDimension);
    if (!try_mul(n, static_cast<uint64_t>(t.shape[i]), &n) || n > static_cast<uint64_t>(INT64_MAX) / 16)
      fail(Fault::checkpoint, "{}: {}: shape {} overflows 64 bits", source, quoted(t), to_string(t.shape));
  }
  return static_cast<int64_t>(n);
}

// Checks that a view lies in its storage, and sets t.offset. The storage has storage_numel elements of element_bytes, the first at
// storage_offset of the file (the caller has checked that it is there); the tensor begins at its element first.
inline void place_in_storage(StoredTensor& t, uint64_t storage_offset, uint64_t storage_numel, unsigned element_bytes, int64_t first,
                             const std::string& source) {
  const auto numel = static_cast<uint64_t>(checked_numel(t, source));
  if (t.strides.size() != t.shape.size())
    fail(Fault::checkpoint, "{}: {}: found {} strides, allowed one for each of {} dimensions", source, quoted(t), t.strides.size(), t.shape.size());
  if (first < 0) fail(Fault::checkpoint, "{}: {}: storage offset: found {}, allowed 0 and above", source, quoted(t), first);
  for (const int64_t stride : t.strides)
    if (stride < 0) fail(Fault::checkpoint, "{}: {}: stride: found {}, allowed 0 and above", source, quoted(t), stride);
  uint64_t last = static_cast<uint64_t>(first);
  for (size_t i = 0; numel > 0 && i < t.shape.size(); ++i) {
    uint64_t reach = 0;
    if (!try_mul(static_cast<uint64_t>(t.shape[i] - 1), static_cast<uint64_t>(t.strides[i]), &reach) || !try_add(last, reach, &last))
      fail(Fault::checkpoint, "{}: {}: strides {} overflow 64 bits", source, quoted(t), to_string(t.strides));
  }
  if (numel > 0 && last >= storage_numel)
    fail(Fault::checkpoint, "{}: {}: reaches element {} of a storage of {}: shape {}, strides {}, offset {}. The file is damaged", source, quoted(t),
         last, storage_numel, to_string(t.shape), to_string(t.strides), first);
  if (numel > storage_numel && numel > kMaxRepeatedBytes / element_bytes)
    fail(Fault::checkpoint, "{}: {}: strides {} make {} elements out of {} stored ones; allowed where that is at most {}", source, quoted(t),
         to_string(t.strides), numel, storage_numel, format_bytes(kMaxRepeatedBytes));
  t.offset = storage_offset + (numel > 0 ? static_cast<uint64_t>(first) * element_bytes : 0);
}

// Fails unless t can be read as weights.
inline void require_readable(const StoredTensor& t, const std::string& source) {
  if (!t.problem.empty()) fail(Fault::checkpoint, "{}: {}: {}", source, quoted(t), t.problem);
  if (!t.dtype)
    fail(Fault::checkpoint, "{}: {}: data type: found {}, allowed f32, f16 or bf16. Convert the checkpoint to one of these with PyTorch", source,
         quoted(t), printable(t.dtype_name));
}

}  // namespace flexgen
