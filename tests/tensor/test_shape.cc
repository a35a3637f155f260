// SPDX-License-Identifier: Apache-2.0
#include "flexgen/tensor/shape.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("shapes are printed as Python prints lists", "[tensor]") {
  CHECK(to_string(Shape{}) == "[]");
  CHECK(to_string(Shape{7}) == "[7]");
  CHECK(to_string(Shape{4096, 1024, 0}) == "[4096, 1024, 0]");
}
