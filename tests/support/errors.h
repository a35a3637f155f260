// SPDX-License-Identifier: Apache-2.0
// CHECK_FAULT(expression, Fault::x, "text"): the expression throws an Error of that fault whose message holds the text.
#pragma once

#include <optional>
#include <string>

#include "flexgen/base/error.h"
#include "support/catch.h"

#define CHECK_FAULT(expression, expected_fault, text)                 \
  do {                                                                \
    std::optional<flexgen::Error> caught_;                            \
    try {                                                             \
      (void)(expression);                                             \
    } catch (const flexgen::Error& e_) {                              \
      caught_ = e_;                                                   \
    }                                                                 \
    REQUIRE(caught_.has_value());                                     \
    CHECK(std::string(flexgen::name(caught_->fault())) == std::string(flexgen::name(expected_fault))); \
    CHECK_THAT(std::string(caught_->what()), Catch::Contains(text));  \
  } while (false)
