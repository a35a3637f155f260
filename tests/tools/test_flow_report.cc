// SPDX-License-Identifier: Apache-2.0
#include "tools/flow_report.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("products are told where a library has a share of them", "[tools]") {
  FlowStatistics f;
  CHECK_FALSE(tools::to_json(f).contains("products"));
  CHECK_THAT(tools::table(f), !Catch::Contains("matrix products"));
  f.products = {1234, 56, 7};
  CHECK(tools::to_json(f).at("products") == nlohmann::json{{"cublaslt", 1234}, {"few_tokens", 56}, {"unfit", 7}});
  CHECK_THAT(tools::table(f), Catch::Contains("\n  matrix products    1,234 by cuBLASLt; by own kernels 56 of few tokens, 7 that do not fit it\n"));
  f.products = {0, 0, 1};
  CHECK(tools::to_json(f).at("products").at("unfit") == 1);
}
