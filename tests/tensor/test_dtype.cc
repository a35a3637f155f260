// SPDX-License-Identifier: Apache-2.0
#include "flexgen/tensor/dtype.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("number formats have the sizes, names and numbers of the file format", "[tensor]") {
  CHECK(size_of(DType::f32) == 4);
  CHECK(size_of(DType::f16) == 2);
  CHECK(size_of(DType::bf16) == 2);
  CHECK(static_cast<uint32_t>(DType::f32) == 0);
  CHECK(static_cast<uint32_t>(DType::f16) == 1);
  CHECK(static_cast<uint32_t>(DType::bf16) == 2);
  for (DType t : {DType::f32, DType::f16, DType::bf16}) CHECK(try_dtype(name(t)) == t);
  for (const char* other : {"", "F32", "f64", "f16 ", "float16"}) CHECK_FALSE(try_dtype(other));
}
