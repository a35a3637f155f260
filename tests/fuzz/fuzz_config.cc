// SPDX-License-Identifier: Apache-2.0
// config.json: any text is a description that hangs together, whose tensors can be listed, or a Fault::checkpoint.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "flexgen/format/json.h"
#include "flexgen/model/opt_config.h"
#include "flexgen/model/records.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    flexgen::ModelDescription m =
        flexgen::opt_description(flexgen::parse_json({reinterpret_cast<const char*>(data), size}, "config.json"), "config.json");
    if (m.n_heads * m.head_dim != m.width || m.n_kv_heads != m.n_heads || m.n_layers < 1 || m.vocab < 1 || m.embed_width < 1 || m.max_positions < 1)
      std::abort();
    m.n_layers = m.n_layers % 8 + 1;
    for (const flexgen::RecordSpec& record : flexgen::records(m))
      for (const flexgen::TensorSpec& t : record.tensors) {
        int64_t bytes = 4;
        for (const int64_t d : t.shape)
          if (d < 1 || __builtin_mul_overflow(bytes, d, &bytes)) std::abort();
      }
  } catch (const flexgen::Error& e) {
    if (e.fault() != flexgen::Fault::checkpoint || !std::string_view(e.what()).starts_with("config.json: ")) std::abort();
  }
  return 0;
}
