// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/torch.h"

#include "support/errors.h"
#include "support/memory_file.h"
#include "support/safetensors_writer.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;
using namespace flexgen::testing::pickle;

TEST_CASE("the layout of a .bin shows in its first bytes", "[format]") {
  const std::string values(12, 'v');
  const std::string zip = zip_bin(whole(dict({{"zipped", tensor(storage("HalfStorage", "0", 6), 0, {6}, {1})}})), {{"0", values}});
  const std::string legacy =
      cat(legacy_head(), whole(dict({{"old", tensor(legacy_storage("HalfStorage", "0", 6), 0, {6}, {1})}})), key_list({"0"}), le(int64_t{6}), values);
  CHECK(read_torch(memory_file(zip), 0).at(0).name == "zipped");
  CHECK(read_torch(memory_file(legacy), 0).at(0).name == "old");
  CHECK_FAULT(read_torch(memory_file("\x08\x03\x12\x07"), 0), Fault::checkpoint,
              "model.bin: found bytes 08 03 12 07 at the start, allowed a zip archive or a pickle that PyTorch wrote");
  CHECK_FAULT(read_torch(memory_file("ab"), 0), Fault::checkpoint, "model.bin: found bytes 61 62 00 00 at the start");
  CHECK_FAULT(read_torch(memory_file(safetensors_file("{}")), 0), Fault::checkpoint, "model.bin: found a safetensors file, allowed a PyTorch one");
  CHECK_FAULT(read_torch(memory_file(""), 0), Fault::checkpoint, "model.bin: file is empty (0 bytes)");
}
