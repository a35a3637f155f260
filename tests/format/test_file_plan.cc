// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/file_plan.h"

#include "flexgen/format/model_writer.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("blocks are whole rows, near the wanted size, and whole pages where that is possible", "[format]") {
  CHECK(rows_in_block(8192, 50272, 2_MiB) == 256);       // OPT-6.7b, f16
  CHECK(rows_in_block(32768, 4096, 2_MiB) == 64);
  CHECK(rows_in_block(1536, 50272, 2_MiB) == 1360);      // OPT-125m: 8 rows make 3 pages
  CHECK(rows_in_block(5120, 10240, 2_MiB) == 408);       // OPT-2.7b: 4 rows make 5 pages
  CHECK(rows_in_block(256, 3, 2_MiB) == 3);              // fewer rows than a block has
  CHECK(rows_in_block(4'000'002, 10, 2_MiB) == 1);       // a row beyond a block
  CHECK(rows_in_block(1534, 100'000, 2_MiB) == 2048);    // 2048 rows are needed for whole pages: 1.5 times the size
  CHECK(rows_in_block(20'002, 100'000, 2_MiB) == 104);   // that would take 40 MiB: padded instead
  for (const uint64_t row_bytes : {2, 62, 64, 512, 1536, 4096, 10240, 98304})
    for (const uint64_t block : {4096, 65536, 2097152}) {
      const auto n = static_cast<uint64_t>(rows_in_block(row_bytes, 1 << 30, block));
      CHECK(n >= 1);
      CHECK((n * row_bytes <= 2 * block || n == 1));
    }
}

TEST_CASE("the alignment suits the model's size", "[format]") {
  const auto model = [](int64_t rows) {
    return std::vector<PlannedRecord>{{"a", {{"a.m", DType::f16, {rows, 512}}}}, {"b", {{"b.m", DType::f16, {rows, 512}}}}};
  };
  CHECK(choose_alignment(model(8)) == 4096);
  CHECK(choose_alignment(model(300)) == 65536);
  CHECK(choose_alignment(model(10'000)) == 2097152);
}

TEST_CASE("a plan lays everything end to end", "[format]") {
  const std::vector<PlannedRecord> records{{"a", {{"a.v", DType::f32, {100}}, {"a.w", DType::f16, {3}}, {"a.m", DType::f16, {5000, 512}}}},
                                           {"b", {{"b.m", DType::f32, {3, 7}}}}};
  const FilePlan p = plan_model_file(records, 5000, 65536);
  CHECK(p.index_offset == 12288);  // header, two pages of JSON
  CHECK(p.table_offset == 16384);
  CHECK(p.records_offset == 65536);
  CHECK(p.tensors[0].offset == 65536);
  CHECK(p.tensors[1].offset == 65536 + 512);  // 400 bytes, then the next multiple of 256
  CHECK(p.tensors[2].offset == 65536 + 4096);
  CHECK(p.tensors[2].rows_per_block == 64);
  CHECK(p.tensors[2].n_blocks == 79);
  CHECK(p.tensors[2].bytes == 5'120'000);
  CHECK(p.records[0].n_blocks == 80);
  CHECK(p.records[1].offset % 65536 == 0);
  CHECK(p.blocks.back().bytes == 4096);
  CHECK(p.file_bytes == p.records[1].offset + 65536);
  for (size_t i = 1; i < 80; ++i) CHECK(p.blocks[i].offset == p.blocks[i - 1].offset + p.blocks[i - 1].bytes);
}

TEST_CASE("records and tensors that a file cannot hold are refused", "[format]") {
  const auto plan = [](std::vector<PlannedRecord> records) { return plan_model_file(records, 10, 4096); };
  CHECK_FAULT(plan({{"a", {}}}), Fault::checkpoint, "model file: record 'a' has no tensors");
  CHECK_FAULT(plan({{"A", {}}}), Fault::checkpoint, "model file: record name: found 'A', allowed 1 to 63 of a-z, 0-9, '.' and '_'");
  CHECK_FAULT(plan({{"a", {{std::string(64, 'x'), DType::f16, {4, 4}}}}}), Fault::checkpoint, "tensor name: found 'xxxx");
  CHECK_FAULT(plan({{"a", {{"a.m", DType::f16, {4, 4}}, {"a.v", DType::f16, {4}}}}}), Fault::checkpoint, "tensor 'a.v': a vector follows a matrix");
  CHECK_FAULT(plan({{"a", {{"a.m", DType::f16, {4, 4, 4}}}}}), Fault::checkpoint, "tensor 'a.m': found 3 dimensions, allowed 1 or 2");
  CHECK_FAULT(plan({{"a", {{"a.m", DType::f16, {INT64_MAX / 2, 4096}}}}}), Fault::checkpoint, "tensor 'a.m'");
}
