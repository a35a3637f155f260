// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json beside two good shards: any text opens exactly what it names, or is a Fault::checkpoint or Fault::io;
// no file outside the folder is ever opened.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "flexgen/format/checkpoint.h"
#include "support/safetensors_writer.h"
#include "support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace flexgen;
  static const testing::TempDir parent;
  static const std::string folder = [] {
    const auto shard = [](const char* a, const char* b) {
      return testing::safetensors_file(
          fmt::format(R"({{"{}":{{"dtype":"F16","shape":[2],"data_offsets":[0,4]}},"{}":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}})", a, b),
          "12345678");
    };
    parent.write("outside.safetensors", shard("o", "p"));
    parent.write("model/one", shard("a", "b"));
    parent.write("model/one.safetensors", shard("a", "b"));
    parent.write("model/two.safetensors", shard("c", "d"));
    return parent / "model";
  }();
  parent.write("model/model.safetensors.index.json", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const Checkpoint c = Checkpoint::open(folder);
    if (c.tensors().empty() || c.n_files() == 0) std::abort();
    for (size_t i = 0; i < c.n_files(); ++i)
      if (std::filesystem::path(c.file(i).path()).parent_path() != folder) std::abort();
    if (c.find("o") || c.find("p")) std::abort();
  } catch (const Error& e) {
    if ((e.fault() != Fault::checkpoint && e.fault() != Fault::io) || !std::string_view(e.what()).starts_with(folder)) std::abort();
  }
  return 0;
}
