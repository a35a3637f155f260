// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/json.h"

#include "support/errors.h"

using namespace flexgen;

TEST_CASE("good JSON is read as it stands", "[format]") {
  const auto j =
      parse_json(R"( {"a": [1, -2, 3.5, 18446744073709551615], "b": {"c": "\u00e9\ud83d\ude00", "d": null}, "e": true, "": {}} )", "x.json");
  CHECK(j["a"][0] == 1);
  CHECK(j["a"][1] == -2);
  CHECK(j["a"][1].is_number_integer());
  CHECK(j["a"][2] == 3.5);
  CHECK(j["a"][3].get<uint64_t>() == 18446744073709551615u);
  CHECK(j["b"]["c"] == "\xC3\xA9\xF0\x9F\x98\x80");
  CHECK(j["b"]["d"].is_null());
  CHECK(j["e"] == true);
  CHECK(j[""].is_object());
  CHECK(parse_json("7", "x") == 7);
  CHECK(parse_json("[[], [[]], {}]", "x").size() == 3);
  // the same text through nlohmann-json's own tree builder
  const std::string text = R"([{"k": [1, {"k": [2, 3, [4]]}], "l": "m"}, [[["deep"]], 0.5e3], "end"])";
  CHECK(parse_json(text, "x") == nlohmann::json::parse(text));
}

TEST_CASE("bad JSON is refused with the byte", "[format]") {
  struct Case {
    std::string text, message;
  };
  const Case cases[] = {
      {"", "x.json: invalid JSON at byte 0: syntax error while parsing value - unexpected end of input"},
      {R"({"a": 1)", "x.json: invalid JSON at byte 7: syntax error while parsing object - unexpected end of input; expected '}'"},
      {R"({"a": 1,})", "x.json: invalid JSON at byte 8: syntax error while parsing object key"},
      {R"({"a": 1} x)", "x.json: invalid JSON at byte 9"},
      {R"({"a": 1}{})", "x.json: invalid JSON at byte 8"},
      {R"([NaN])", "x.json: invalid JSON at byte 1: syntax error while parsing value - invalid literal"},
      {R"([1e999])", "x.json: invalid JSON at byte"},
      {R"([01])", "x.json: invalid JSON at byte 2"},
      {"[\"a\nb\"]", "x.json: invalid JSON at byte 3"},
      {R"(["\ud800"])", "x.json: invalid JSON at byte"},
      {"// comment\n1", "x.json: invalid JSON at byte 0"},
      {std::string("{\"a\0\": 1}", 9), "x.json: invalid JSON at byte 3"},
      {"[\"ab\xFF\"]", "x.json: invalid UTF-8 at byte 4"},
      {"[\"\xC0\xAF\"]", "x.json: invalid UTF-8 at byte 2"},      // overlong
      {"[\"\xED\xA0\x80\"]", "x.json: invalid UTF-8 at byte 3"},  // a surrogate
      {R"({"w": 1, "v": 2, "w": 3})", "x.json: key 'w' is given twice, the second ends at byte 19; refusing an ambiguous file"},
      {R"({"a": {"\u001b": 1, "\u001B": 2}})", "x.json: key '\\x1b' is given twice"},
      {std::string(33, '['), "x.json: JSON is nested deeper than 32 levels at byte 32"},
      {std::string(100000, '['), "x.json: JSON is nested deeper than 32 levels at byte 32"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK_FAULT(parse_json(c.text, "x.json"), Fault::checkpoint, c.message);
  }
}

TEST_CASE("limits and the fault are the caller's", "[format]") {
  CHECK(parse_json(std::string(32, '[') + std::string(32, ']'), "x").size() == 1);
  CHECK_FAULT(parse_json("[[1]]", "line 4", {.depth = 1, .fault = Fault::usage}), Fault::usage,
              "line 4: JSON is nested deeper than 1 levels at byte 1");
  CHECK_FAULT(parse_json("[1,2,3,4]", "x", {.values = 4}), Fault::checkpoint, "x: JSON holds more than 4 values at byte");
  CHECK(parse_json("[1,2,3]", "x", {.values = 4}).size() == 3);
}
