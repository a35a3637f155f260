// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/named_shapes.h"

#include <map>

#include "flexgen/model/records.h"
#include "support/catch.h"

using namespace flexgen;

TEST_CASE("named shapes have the published numbers of parameters", "[model]") {
  // notes on model families, counted from the HuggingFace tensors with the tied head once
  const std::map<std::string_view, int64_t> published{
      {"opt-125m", 125'239'296},       {"opt-350m", 331'196'416},        {"opt-1.3b", 1'315'758'080},        {"opt-2.7b", 2'651'596'800},
      {"opt-6.7b", 6'658'473'984},     {"opt-13b", 12'853'473'280},      {"opt-30b", 29'974'540'288},        {"opt-66b", 65'719'701'504},
      {"opt-175b", 174'604'468'224},   {"opt-iml-1.3b", 1'315'758'080},  {"opt-iml-30b", 29'974'540'288},    {"galactica-125m", 125'030'400},
      {"galactica-1.3b", 1'315'201'024}, {"galactica-6.7b", 6'657'359'872}, {"galactica-30b", 29'972'590'592}, {"galactica-120b", 121'341'747'200}};
  REQUIRE(published.size() == kNamedShapes.size());
  for (const auto& [name, parameters] : published) {
    INFO(name);
    const auto m = try_named_shape(name);
    REQUIRE(m.has_value());
    int64_t found = 0;
    for (const RecordSpec& r : records(*m))
      for (const TensorSpec& t : r.tensors) found += t.shape.size() == 1 ? t.shape[0] : t.shape[0] * t.shape[1];
    CHECK(found == parameters);
  }
  CHECK_FALSE(try_named_shape("opt-7b").has_value());
}
