// SPDX-License-Identifier: Apache-2.0
// Attention, and the kernels around it.
#include <numeric>

#include "bench/gpu/attention_batch.h"
#include "bench/gpu/jobs.h"
#include "kernels/cuda/api/argmax.h"
#include "kernels/cuda/api/embed.h"
#include "kernels/cuda/api/kv_append.h"
#include "kernels/cuda/api/layer_norm.h"
#include "kernels/cuda/api/sample.h"

namespace flexgen::bench {
namespace {

void time_attention(Session& s, const BatchShape& shape) {
  const double bytes = shape.kv_bytes() + 8 * static_cast<double>(shape.tokens() * shape.width());
  const int sets = s.sets_of(bytes);
  const AttentionBatch batch(s, shape, sets);
  const DeviceMemory y = s.memory(static_cast<size_t>(shape.tokens() * shape.width()) * 4);
  for (const AttentionVariant& v : attention_variants(s, shape)) {
    const PlannedBatch planned(s, batch, v.choice);
    Row row;
    row.group = "attention", row.name = shape.name(), row.kernel = v.name, row.role = v.role;
    row.bytes = bytes, row.flops = shape.flops();
    s.emit(s.timed(row, sets, [&](int set) { check_launch(planned.launch(set, reinterpret_cast<float*>(y.data()), s.stream()), "attention"); }));
  }
}

Row other(const std::string& name, const char* kernel, double bytes) {
  Row row;
  row.group = "other", row.name = name, row.kernel = kernel, row.role = "chosen", row.bytes = bytes;
  return row;
}

float* floats(const DeviceMemory& m) { return reinterpret_cast<float*>(m.data()); }

void time_layer_norm(Session& s, int64_t tokens, int64_t width) {
  const double n = static_cast<double>(tokens * width), bytes = 10 * n;  // f32 in and out, and the rounded copy
  const int sets = s.sets_of(bytes);
  const DeviceMemory x = s.random(DType::f32, sets * tokens * width, 1, 31), gamma = s.random(DType::f32, width, 1, 32);
  const DeviceMemory beta = s.random(DType::f32, width, 1, 33), y = s.memory(x.size()), rounded = s.memory(x.size() / 2);
  s.emit(s.timed(other(fmt::format("layer norm T={} E={}", tokens, width), "layer_norm", bytes), sets, [&](int set) {
    cuda::NormArguments a;
    a.x = floats(x) + set * tokens * width, a.y = floats(y) + set * tokens * width, a.rounded = rounded.data() + set * tokens * width * 2;
    a.gamma = floats(gamma), a.beta = floats(beta);
    a.x_stride = a.y_stride = a.rounded_stride = width, a.rows = static_cast<int32_t>(tokens), a.cols = static_cast<int32_t>(width);
    check_launch(cuda::layer_norm(a, s.stream()), "layer_norm");
  }));
}

void time_kv_append(Session& s, const BatchShape& shape) {
  const int64_t kv_width = shape.kv_heads * shape.head_dim, n = shape.tokens() * kv_width;
  const double bytes = 12 * static_cast<double>(n);  // k and v, f32 in and f16 out
  const int sets = s.sets_of(bytes);
  const AttentionBatch batch(s, shape, sets);
  const DeviceMemory k = s.random(DType::f32, n, 1, 34), v = s.random(DType::f32, n, 1, 35);
  s.emit(s.timed(other("KV append " + shape.name(), "kv_append", bytes), sets, [&](int set) {
    cuda::KvAppendArguments a;
    a.k = floats(k), a.v = floats(v), a.k_stride = a.v_stride = kv_width, a.layout = batch.layout();
    a.spans = batch.spans(set), a.n_spans = static_cast<int32_t>(shape.sequences), a.max_tok = static_cast<int32_t>(shape.n_tok);
    check_launch(cuda::kv_append(a, s.stream()), "kv_append");
  }));
}

void time_embed(Session& s, int64_t tokens, int64_t width, int64_t vocabulary) {
  const double bytes = 6 * static_cast<double>(tokens * width);  // a row of the table, f16, and f32 out
  const int sets = s.sets_of(bytes);
  const DeviceMemory table = s.random(DType::f16, vocabulary * width, 1, 36);
  std::vector<const void*> rows;
  for (int64_t i = 0; i < sets * tokens; ++i) rows.push_back(table.data() + (i * 7919 + 13) % vocabulary * width * 2);
  const DeviceMemory rows_there = s.upload(rows);
  const DeviceMemory y = s.memory(static_cast<size_t>(sets * tokens * width) * 4);
  s.emit(s.timed(other(fmt::format("embed T={} E={}", tokens, width), "embed", bytes), sets, [&](int set) {
    cuda::EmbedArguments a;
    a.rows = reinterpret_cast<const void* const*>(rows_there.data()) + set * tokens, a.row_alignment = width % 4 == 0 ? 8 : 2;
    a.y = floats(y) + set * tokens * width, a.y_stride = width, a.n_tok = static_cast<int32_t>(tokens), a.width = static_cast<int32_t>(width);
    check_launch(cuda::embed(a, s.stream()), "embed");
  }));
}

void time_argmax(Session& s, int64_t rows, int64_t vocabulary) {
  const double bytes = 4 * static_cast<double>(rows * vocabulary);
  const int sets = s.sets_of(bytes);
  const DeviceMemory logits = s.random(DType::f32, sets * rows * vocabulary, 1, 38), ids = s.memory(static_cast<size_t>(rows) * 4);
  s.emit(s.timed(other(fmt::format("argmax {} x {}", rows, vocabulary), "argmax", bytes), sets, [&](int set) {
    cuda::ArgmaxArguments a;
    a.logits = floats(logits) + set * rows * vocabulary, a.stride = vocabulary, a.ids = reinterpret_cast<int32_t*>(ids.data());
    a.rows = static_cast<int32_t>(rows), a.vocabulary = static_cast<int32_t>(vocabulary);
    check_launch(cuda::argmax(a, s.stream()), "argmax");
  }));
}

void time_sample(Session& s, int64_t rows, int64_t vocabulary) {
  const double bytes = 4 * static_cast<double>(rows * vocabulary);
  const int sets = s.sets_of(bytes);
  const DeviceMemory logits = s.random(DType::f32, sets * rows * vocabulary, 1, 39), ids = s.memory(static_cast<size_t>(rows) * 4);
  std::vector<Draw> draws;
  for (int64_t i = 0; i < rows; ++i) draws.push_back({static_cast<double>(i) / static_cast<double>(rows), 0.95, 0, 0.8f, 50});
  const DeviceMemory draws_there = s.upload(draws);
  s.emit(s.timed(other(fmt::format("sample {} x {}, top 50", rows, vocabulary), "sample", bytes), sets, [&](int set) {
    cuda::SampleArguments a;
    a.logits = floats(logits) + set * rows * vocabulary, a.stride = vocabulary, a.draws = reinterpret_cast<const Draw*>(draws_there.data());
    a.ids = reinterpret_cast<int32_t*>(ids.data()), a.rows = static_cast<int32_t>(rows), a.vocabulary = static_cast<int32_t>(vocabulary);
    check_launch(cuda::sample(a, s.stream()), "sample");
  }));
}

}  // namespace

std::vector<Job> attention_jobs(Scale scale) {
  std::vector<BatchShape> shapes;
  if (scale == Scale::smoke) {
    shapes = {{.sequences = 2, .positions = 70, .n_tok = 1, .heads = 2, .kv_heads = 2, .head_dim = 64},
              {.sequences = 1, .positions = 40, .n_tok = 40, .heads = 2, .kv_heads = 1, .head_dim = 64}};
  } else {
    const bool quick = scale == Scale::quick;
    for (int64_t s : quick ? std::vector<int64_t>{2048} : std::vector<int64_t>{512, 2048, 8192})
      for (int64_t b : {1, 32, 256}) shapes.push_back({.sequences = b, .positions = s});
    shapes.push_back({.sequences = 32, .positions = 2048, .heads = 32, .kv_heads = 8});
    if (!quick) shapes.push_back({.sequences = 32, .positions = 2048, .heads = 32, .kv_heads = 32, .head_dim = 64});
    shapes.push_back({.sequences = 16, .positions = 512, .n_tok = 512});
    shapes.push_back({.sequences = 4, .positions = 2048, .n_tok = 2048});
    if (!quick) shapes.push_back({.sequences = 4, .positions = 2048, .n_tok = 2048, .heads = 32, .kv_heads = 32, .head_dim = 64});
  }
  std::vector<Job> jobs;
  for (const BatchShape& shape : shapes) jobs.push_back({"attention: " + shape.name(), [shape](Session& s) { time_attention(s, shape); }});
  return jobs;
}

std::vector<Job> other_jobs(Scale scale) {
  const bool smoke = scale == Scale::smoke;
  const int64_t width = smoke ? 64 : 7168, vocabulary = smoke ? 500 : 50272;
  std::vector<Job> jobs;
  for (const int64_t tokens : smoke ? std::vector<int64_t>{3} : std::vector<int64_t>{32, 4096})
    jobs.push_back({fmt::format("other: layer norm T={}", tokens), [=](Session& s) { time_layer_norm(s, tokens, width); }});
  const BatchShape prompts = smoke ? BatchShape{.sequences = 2, .positions = 40, .n_tok = 3, .heads = 2, .kv_heads = 2, .head_dim = 32}
                                   : BatchShape{.sequences = 16, .positions = 512, .n_tok = 256, .heads = 56, .kv_heads = 56};
  jobs.push_back({"other: KV append", [=](Session& s) { time_kv_append(s, prompts); }});
  jobs.push_back({"other: embed", [=](Session& s) { time_embed(s, smoke ? 5 : 4096, width, vocabulary); }});
  jobs.push_back({"other: argmax", [=](Session& s) { time_argmax(s, smoke ? 3 : 256, vocabulary); }});
  jobs.push_back({"other: sample", [=](Session& s) { time_sample(s, smoke ? 3 : 256, vocabulary); }});
  return jobs;
}

}  // namespace flexgen::bench
