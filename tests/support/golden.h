// SPDX-License-Identifier: Apache-2.0
// Golden checkpoints (what HF transformers computes from them) and weights taken straight from a checkpoint, cut into row blocks of any
// size: so tests of the runtime need no model file.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flexgen/format/checkpoint.h"
#include "flexgen/format/json.h"
#include "flexgen/format/row_reader.h"
#include "flexgen/model/opt_checkpoint.h"
#include "flexgen/model/opt_config.h"
#include "flexgen/runtime/weight_stream.h"
#include "flexgen/tensor/half.h"
#include "support/catch.h"

namespace flexgen::testing {

// Checks that what is acquired is released; row blocks of block_rows rows.
class CheckpointWeights final : public WeightStream {
 public:
  CheckpointWeights(const Checkpoint& checkpoint, const ModelSources& sources, int64_t block_rows = 48) {
    size_t next = 0;
    for (const RecordSpec& record : records(sources.description)) {
      auto& tensors = tensors_.emplace_back();
      for (size_t t = 0; t < record.tensors.size(); ++t) tensors.push_back(read(checkpoint, sources.tensors[next++], block_rows));
    }
  }
  ~CheckpointWeights() override { CHECK(acquired_ == 0); }

  // asserts from here on that blocks are asked for in the announced order
  void begin_sweep(const SweepOrder& order) override {
    announced_.clear();
    const auto announce = [&](std::span<const TensorRef> matrices) {
      for (const TensorRef& m : matrices)
        for (size_t b = 0; b < n_blocks(m); ++b) announced_.emplace_back(m, b);
    };
    announce(order.body);
    for (size_t i = 0; i < order.head_passes; ++i) announce(order.head);
  }

  size_t at_once() const override { return SIZE_MAX; }
  size_t n_blocks(TensorRef t) const override { return at(t).blocks.size(); }
  WeightView acquire(TensorRef t, size_t first, size_t last) override {
    REQUIRE(first < last);
    REQUIRE(last <= at(t).blocks.size());
    acquired_ += static_cast<int64_t>(last - first);
    for (size_t b = first; b < last; ++b) {
      const std::pair block(t, b);
      if (std::find(held_.begin(), held_.end(), block) == held_.end()) {
        REQUIRE(!announced_.empty());
        REQUIRE(announced_.front() == block);
        announced_.pop_front();
      }
      held_.push_back(block);
    }
    return {at(t).dtype, at(t).rows, at(t).cols, std::span(at(t).blocks).subspan(first, last - first)};
  }
  void release(TensorRef t, size_t first, size_t last) override {
    acquired_ -= static_cast<int64_t>(last - first);
    for (size_t b = first; b < last; ++b) held_.erase(std::find(held_.begin(), held_.end(), std::pair(t, b)));
  }
  // exactly the blocks that hold the rows
  WeightView acquire_rows(TensorRef t, std::span<const int32_t> rows) override {
    const Tensor& x = at(t);
    some_.clear();
    for (const RowBlock& b : x.blocks)
      if (std::any_of(rows.begin(), rows.end(), [&](int32_t r) { return r >= b.first_row && r < b.first_row + b.rows; })) some_.push_back(b);
    ++acquired_;
    return {x.dtype, x.rows, x.cols, some_};
  }
  void release_rows(TensorRef) override { --acquired_; }
  const float* vector(TensorRef t) const override { return at(t).values.data(); }

 private:
  struct Tensor {
    DType dtype;
    int64_t rows, cols;
    std::vector<std::byte> bytes;
    std::vector<RowBlock> blocks;
    std::vector<float> values;
  };

  const Tensor& at(TensorRef t) const { return *tensors_.at(t.record).at(t.tensor); }

  static std::unique_ptr<Tensor> read(const Checkpoint& checkpoint, const TensorSource& source, int64_t block_rows) {
    auto t = std::make_unique<Tensor>();
    const bool matrix = source.shape.size() == 2;
    t->dtype = source.dtype;
    t->rows = source.shape[0];
    t->cols = matrix ? source.shape[1] : 1;
    t->bytes.resize(static_cast<size_t>(t->rows * t->cols) * size_of(t->dtype));
    std::byte* next = t->bytes.data();
    for (const StoredTensor* part : source.parts) {
      const size_t bytes = static_cast<size_t>(part->shape[0] * t->cols) * size_of(source.dtype);
      read_rows(checkpoint, *part, 0, part->shape[0], {next, bytes});
      next += bytes;
    }
    const size_t row_bytes = static_cast<size_t>(t->cols) * size_of(t->dtype);
    if (matrix)
      for (int64_t r = 0; r < t->rows; r += block_rows)
        t->blocks.push_back({t->bytes.data() + static_cast<size_t>(r) * row_bytes, r, std::min(block_rows, t->rows - r)});
    else
      for (int64_t i = 0; i < t->rows; ++i) t->values.push_back(load_element(t->dtype, t->bytes.data(), static_cast<size_t>(i)));
    return t;
  }

  std::vector<std::vector<std::unique_ptr<Tensor>>> tensors_;
  std::vector<RowBlock> some_;
  std::deque<std::pair<TensorRef, size_t>> announced_;  // blocks still to come
  std::vector<std::pair<TensorRef, size_t>> held_;
  int64_t acquired_ = 0;
};

struct GoldenSequence {
  std::string prompt;
  std::vector<int32_t> prompt_tokens, tokens;
  std::string text;
  std::vector<double> logprobs;
  std::vector<float> logits;  // [prompt + new - 1, V], teacher-forced
};

struct Golden {
  explicit Golden(const std::string& folder)
      : name(std::filesystem::path(folder).filename().string()),
        checkpoint(Checkpoint::open(folder)),
        sources(opt_sources(checkpoint,
                            opt_description(parse_json(read_text_file(folder + "/config.json"), folder + "/config.json"), folder + "/config.json"),
                            folder + "/config.json")) {
    const auto expected = parse_json(read_text_file(folder + "/expected.json"), folder + "/expected.json");
    const File logits = File::open(folder + "/expected_logits.safetensors");
    uint64_t header_bytes = 0;
    logits.read(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
    std::string header(header_bytes, '\0');
    logits.read(8, std::as_writable_bytes(std::span(header)));
    const auto index = nlohmann::json::parse(header);
    for (const auto& s : expected.at("sequences")) {
      GoldenSequence& g = sequences.emplace_back();
      g.prompt = s.at("prompt");
      g.prompt_tokens = s.at("prompt_tokens").get<std::vector<int32_t>>();
      g.tokens = s.at("tokens").get<std::vector<int32_t>>();
      g.text = s.at("text");
      g.logprobs = s.at("logprobs").get<std::vector<double>>();
      const auto& entry = index.at("logits." + std::to_string(sequences.size() - 1));
      REQUIRE(entry.at("dtype") == "F32");
      const uint64_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
      g.logits.resize((end - begin) / sizeof(float));
      logits.read(8 + header_bytes + begin, std::as_writable_bytes(std::span(g.logits)));
    }
  }

  const ModelDescription& model() const { return sources.description; }

  std::string name;
  Checkpoint checkpoint;
  ModelSources sources;
  std::vector<GoldenSequence> sequences;
};

// Folders of golden checkpoints: those in the repository, and all others where they are there
inline std::vector<std::string> golden_folders() {
  std::map<std::string, std::string> by_name;
  const auto add = [&](const std::string& root) {
    for (const auto& e : std::filesystem::directory_iterator(root))
      if (std::filesystem::exists(e.path() / "expected.json")) by_name.emplace(e.path().filename().string(), e.path().string());
  };
  add(test_data("golden"));
  if (const auto shared = shared_data("golden/opt")) add(*shared);
  std::vector<std::string> out;
  for (const auto& [name, path] : by_name) out.push_back(path);
  return out;
}

}  // namespace flexgen::testing
