// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/opt_checkpoint.h"

#include "flexgen/format/row_reader.h"
#include "flexgen/model/opt_config.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("a golden checkpoint has a source for every tensor", "[model]") {
  const std::string folder = testing::test_data("golden/head128-bf16-sharded");
  const std::string config = folder + "/config.json";
  const Checkpoint c = Checkpoint::open(folder);
  const ModelSources s = opt_sources(c, opt_description(parse_json(read_text_file(config), config), config), config);
  CHECK(s.notes.empty());
  CHECK(s.tensors[0].name == "embed.tokens");
}
