// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/json_fields.h"

#include "flexgen/format/json.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("typed members", "[format]") {
  const auto j = parse_json(R"({"n": 12, "x": 0.5, "yes": true, "s": "text", "nothing": null, "big": 9223372036854775808, "three": 3.0,
                               "list": [1], "object": {}, "escape": "\u001b[31m"})",
                            "c.json");
  const JsonFields f(j, "c.json");
  CHECK(f.whole("n", 1, 12) == 12);
  CHECK(f.whole_or("absent", 7, 0, 1) == 7);
  CHECK(f.whole_or("nothing", 7, 0, 1) == 7);
  CHECK(f.number("x", 0, 1) == 0.5);
  CHECK(f.number("n", 0, 20) == 12.0);
  CHECK(f.number_or("absent", 2.5, 0, 1) == 2.5);
  CHECK(f.flag("yes"));
  CHECK_FALSE(f.flag_or("absent", false));
  CHECK(f.text("s") == "text");
  CHECK(f.text_or("nothing", "none") == "none");
  CHECK(f.has("n"));
  CHECK_FALSE(f.has("nothing"));

  CHECK_FAULT(f.whole("n", 1, 11), Fault::checkpoint, "c.json: n: found 12, allowed a whole number from 1 to 11");
  CHECK_FAULT(f.whole("big", 0, INT64_MAX), Fault::checkpoint, "c.json: big: found 9223372036854775808, allowed a whole number");
  CHECK_FAULT(f.whole("three", 0, 9), Fault::checkpoint, "c.json: three: found 3.0, allowed a whole number");
  CHECK_FAULT(f.whole("s", 0, 9), Fault::checkpoint, "c.json: s: found \"text\", allowed a whole number");
  CHECK_FAULT(f.whole("list", 0, 9), Fault::checkpoint, "c.json: list: found a list, allowed a whole number");
  CHECK_FAULT(f.whole("yes", 0, 9), Fault::checkpoint, "c.json: yes: found true, allowed a whole number");
  CHECK_FAULT(f.whole("nothing", 0, 9), Fault::checkpoint, "c.json: nothing is missing");
  CHECK_FAULT(f.number("x", 0.75, 1), Fault::checkpoint, "c.json: x: found 0.5, allowed a number from 0.75 to 1");
  CHECK_FAULT(f.number("object", 0, 1), Fault::checkpoint, "c.json: object: found an object, allowed a number");
  CHECK_FAULT(f.flag("n"), Fault::checkpoint, "c.json: n: found 12, allowed true or false");
  CHECK_FAULT(f.text("n"), Fault::checkpoint, "c.json: n: found 12, allowed a string");
  CHECK_FAULT(f.flag("escape"), Fault::checkpoint, "c.json: escape: found \"\\u001b[31m\", allowed true or false");
  const nlohmann::json list = nlohmann::json::array();
  CHECK_FAULT(JsonFields(list, "line 3", Fault::usage), Fault::usage, "line 3: found a list, allowed an object");
}
