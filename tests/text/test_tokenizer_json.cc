// SPDX-License-Identifier: Apache-2.0
// What is refused, with its whole message, is in test_tokenizer_spec.cc; what HuggingFace makes of each kind in test_tokenizer.cc.
#include "flexgen/text/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;
using Json = nlohmann::json;

namespace {
Json minimal() {
  return {{"model", {{"vocab", {{"a", 0}}}, {"merges", Json::array()}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}}},
          {"decoder", {{"type", "ByteLevel"}}}};
}
}  // namespace

TEST_CASE("absent keys mean what HuggingFace takes for granted", "[text]") {
  const TokenizerPipeline p = read_pipeline(minimal(), "t");
  CHECK(p.add_prefix_space);
  CHECK(p.split);
  CHECK_FALSE(p.ignore_merges);
  CHECK_FALSE(p.frame.has_value());
  CHECK(read_model(minimal(), "t").ids.size() == 1);
}

TEST_CASE("keys that are there count", "[text]") {
  Json root = minimal();
  root["pre_tokenizer"]["add_prefix_space"] = false;
  root["pre_tokenizer"]["use_regex"] = false;
  root["model"]["ignore_merges"] = true;
  root["model"]["dropout"] = 0.0;
  root["model"]["unk_token"] = "a";
  const TokenizerPipeline p = read_pipeline(root, "t");
  CHECK_FALSE(p.add_prefix_space);
  CHECK_FALSE(p.split);
  CHECK(p.ignore_merges);
}

TEST_CASE("a template says what stands around the text", "[text]") {
  Json root = minimal();
  const Json sequence = {{"Sequence", {{"id", "A"}}}}, x = {{"SpecialToken", {{"id", "x"}}}}, y = {{"SpecialToken", {{"id", "y"}}}};
  const Json part = {
      {"type", "TemplateProcessing"}, {"single", {x, y, sequence, x}}, {"special_tokens", {{"x", {{"ids", {7}}}}, {"y", {{"ids", {8, 9}}}}}}};
  root["post_processor"] = part;
  TokenizerPipeline p = read_pipeline(root, "t");
  REQUIRE(p.frame.has_value());
  CHECK(p.frame->before == std::vector<int32_t>{7, 8, 9});
  CHECK(p.frame->after == std::vector<int32_t>{7});
  root["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, part}}};
  CHECK(read_pipeline(root, "t").frame->before == p.frame->before);
  root["post_processor"]["processors"].push_back(part);
  CHECK_FAULT(read_pipeline(root, "t"), Fault::checkpoint, "t: post_processor: found a second TemplateProcessing, allowed one");
  root["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "Sequence"}}}}};
  CHECK_FAULT(read_pipeline(root, "t"), Fault::checkpoint,
              "t: post_processor: found Sequence in a Sequence, allowed ByteLevel and TemplateProcessing");
  root["post_processor"] = {{"type", "Sequence"}};
  CHECK_FAULT(read_pipeline(root, "t"), Fault::checkpoint, "t: post_processor: processors: found null, allowed a list");
}
