// SPDX-License-Identifier: Apache-2.0
// A model file with OPT-6.7B's layers and random f16 weights, as many as make a given size, that is gone when the benchmark ends, however
// it ends: once written, it has no name.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "flexgen/format/model_writer.h"
#include "flexgen/model/description_json.h"
#include "flexgen/model/named_shapes.h"
#include "flexgen/model/records.h"
#include "flexgen/model/synthetic.h"
#include "tools/interrupt.h"

namespace flexgen::bench {

class ScratchModel {
 public:
  // About size_bytes in at least one layer. throws Fault::interrupted
  ScratchModel(const std::string& folder, uint64_t size_bytes) {
    const std::string path = fmt::format("{}/flexgen-bench-{}.flex", folder, ::getpid());
    ModelDescription m = *try_named_shape("opt-6.7b");
    m.vocab = 512;  // the layers are what matters
    if (size_bytes < 256_MiB) m.width = 512, m.embed_width = 512, m.ffn = 2048, m.n_heads = m.n_kv_heads = 8, m.head_dim = 64;
    const uint64_t layer = 2 * static_cast<uint64_t>(4 * m.width * m.width + 2 * m.width * m.ffn);
    m.n_layers = static_cast<int64_t>(std::clamp<uint64_t>((size_bytes + layer / 2) / layer, 1, 10'000));
    std::vector<PlannedRecord> planned;
    for (const RecordSpec& r : records(m)) {
      planned.push_back({r.name, {}});
      for (const TensorSpec& t : r.tensors) planned.back().tensors.push_back({t.name, DType::f16, t.shape});
    }
    const std::string json = file_description(m, {}, nlohmann::json::object(), {{"tool", "flexgen-bench"}}, "");
    FilePlan plan = plan_model_file(planned, json.size(), choose_alignment(planned));
    const SyntheticWeights weights(m, DType::f16, 1);
    write_model_file(path, json, plan,
                     [&](const FileTensor& t, int64_t row, int64_t, std::span<std::byte> dst, int) {
                       weights.fill(t.name, static_cast<uint64_t>(row) * (t.is_vector() ? 1 : static_cast<uint64_t>(t.shape[1])), dst);
                     },
                     {.file_id = 1, .overwrite = true, .stop = &tools::interrupted});
    fd_ = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ::unlink(path.c_str());
    if (!fd_) fail(Fault::io, "{}: cannot be opened: {}", path, std::strerror(errno));
  }

  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_.get()); }

 private:
  Fd fd_;
};

}  // namespace flexgen::bench
