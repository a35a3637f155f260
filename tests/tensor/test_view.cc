// SPDX-License-Identifier: Apache-2.0
#include "flexgen/tensor/view.h"

#include <type_traits>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

static_assert(std::is_trivially_copyable_v<MatView<float>> && std::is_trivially_copyable_v<WeightView>);
static_assert(std::is_convertible_v<MatView<float>, MatView<const float>> && !std::is_convertible_v<MatView<const float>, MatView<float>>);

TEST_CASE("parts of a matrix are the same numbers", "[tensor]") {
  std::vector<float> numbers(5 * 8);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  const MatView<float> m{numbers.data(), 5, 6, 8};  // [5, 6] in rows of 8
  CHECK(*m.row(0) == 0);
  CHECK(*m.row(4) == 32);

  const MatView<float> columns = m.columns(2, 3);
  CHECK(columns.rows == 5);
  CHECK(columns.cols == 3);
  CHECK(columns.row(1)[0] == 10);

  const MatView<const float> rows = m.rows_from(3, 2);
  CHECK(rows.rows == 2);
  CHECK(rows.cols == 6);
  CHECK(rows.row(1)[5] == 37);

  m.rows_from(1, 1).columns(1, 1).row(0)[0] = -1;
  CHECK(numbers[9] == -1);
}
