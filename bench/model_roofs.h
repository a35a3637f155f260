// SPDX-License-Identifier: Apache-2.0
// The least time that a sweep can take on this machine: the bytes that do not fit the budget at the disk's rate, or the arithmetic at the
// rate of our own matrix product, but at least half the FMA peak, whichever is longer. Streaming more than needed, or a slow kernel,
// must not lower it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/harness.h"
#include "bench/roofs.h"
#include "flexgen/format/model_file.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/model/program.h"
#include "flexgen/ops/backend.h"
#include "flexgen/runtime/weight_placement.h"
#include "flexgen/tensor/half.h"

namespace flexgen::bench {

struct ModelWork {
  double layer_flops = 0;      // a token, without attention
  double head_flops = 0;       // a token whose logits are wanted
  double attention_flops = 0;  // a token and a position that it sees
  double kv_bytes = 0;         // a position
};

inline ModelWork model_work(const ModelFile& file, const ModelDescription& m, DType kv_dtype) {
  const auto of = [&](const Step& step) {
    double n = 0;
    for (const Operation& op : step.operations)
      if (op.kind == Operation::Kind::linear)
        n += 2.0 * static_cast<double>(file_tensor(file, *op.weight).shape[0]) * static_cast<double>(file_tensor(file, *op.weight).shape[1]);
    return n;
  };
  const Program p = opt_program(m);
  ModelWork w;
  for (const Step& step : p.body) w.layer_flops += of(step);
  w.head_flops = of(p.head);
  w.attention_flops = 4.0 * static_cast<double>(m.n_layers * m.n_heads * m.head_dim);
  w.kv_bytes = 2.0 * static_cast<double>(m.n_layers * m.n_kv_heads * m.head_dim) * static_cast<double>(size_of(kv_dtype));
  return w;
}

// FLOP/s of our matrix product with the model's largest matrix of a layer and that many tokens; weights come from memory, not from cache
inline double product_rate(ThreadPool& pool, const Backend& backend, DType dtype, int64_t rows, int64_t cols, int64_t n_tok) {
  const size_t bytes = static_cast<size_t>(rows * cols) * size_of(dtype), copies = std::max<size_t>(2, 256_MiB / bytes);
  const Buffer weights(bytes * copies);
  for (size_t i = 0; i < weights.size() / size_of(dtype); ++i) store_element(dtype, weights.data(), i, static_cast<float>(i % 251) * 0x1p-8f - 0.5f);
  const std::vector<float> x(static_cast<size_t>(n_tok * cols), 0.01f);
  std::vector<float> y(static_cast<size_t>(n_tok * rows));
  const Timing t = measure(
      [&](int i) {
        const RowBlock block{weights.data() + static_cast<size_t>(i) % copies * bytes, 0, rows};
        linear(backend,
               {{const_cast<float*>(x.data()), n_tok, cols, cols},
                {dtype, rows, cols, {&block, 1}},
                nullptr,
                {y.data(), n_tok, rows, rows},
                Activation::none,
                false},
               {&pool});
      },
      5);
  return 2.0 * static_cast<double>(rows * cols) * static_cast<double>(n_tok) / t.min;
}

struct SweepRoof {
  double disk_s = 0, compute_s = 0;
  double link_s = 0;  // of a card
  double s() const { return std::max({disk_s, compute_s, link_s}); }
};

}  // namespace flexgen::bench
