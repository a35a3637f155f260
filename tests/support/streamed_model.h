// SPDX-License-Identifier: Apache-2.0
// A model file, of a checkpoint or of a shape alone, and what its weights are streamed with: an engine, memory, a pool.
#pragma once

#include <memory>
#include <string>

#include "flexgen/format/model_file.h"
#include "flexgen/format/model_writer.h"
#include "flexgen/io/queued_engine.h"
#include "flexgen/io/thread_backend.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/model/conversion.h"
#include "flexgen/model/description_json.h"
#include "flexgen/model/synthetic.h"
#include "flexgen/runtime/tiered_weights.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace flexgen::testing {

// two layers, head size 16, V = 96, 128 positions
inline ModelDescription small_shape() {
  ModelDescription m;
  m.n_layers = 2, m.width = m.embed_width = 32, m.ffn = 64, m.n_heads = m.n_kv_heads = 2, m.head_dim = 16, m.vocab = 96, m.max_positions = 128;
  m.position_offset = 2;
  return m;
}

class StreamedModel {
 public:
  explicit StreamedModel(const std::string& folder) {
    Conversion(folder, {}, std::nullopt, "test").write(path(), {.file_id = 1});
    open();
  }
  // seeded weights in f16
  explicit StreamedModel(const ModelDescription& shape) {
    std::vector<PlannedRecord> planned;
    for (const RecordSpec& r : records(shape)) {
      planned.push_back({r.name, {}});
      for (const TensorSpec& t : r.tensors) planned.back().tensors.push_back({t.name, DType::f16, t.shape});
    }
    const std::string json = file_description(shape, {}, nlohmann::json::object(), nlohmann::json::object(), "test");
    FilePlan plan = plan_model_file(planned, json.size(), 4096);
    const SyntheticWeights weights(shape, DType::f16, 1);
    write_model_file(path(), json, plan,
                     [&](const FileTensor& t, int64_t row, int64_t, std::span<std::byte> dst, int) {
                       weights.fill(t.name, static_cast<uint64_t>(row) * (t.is_vector() ? 1 : static_cast<uint64_t>(t.shape[1])), dst);
                     },
                     {.file_id = 1, .workers = 1});
    open();
  }
  std::string path() const { return dir_ / "model.flex"; }
  const ModelFile& file() const { return *file_; }
  const ModelDescription& model() const { return model_; }
  const Program& program() const { return program_; }
  const FileTensor& tokens() const { return *file_->find("embed.tokens"); }

 private:
  void open() {
    file_ = std::make_unique<ModelFile>(ModelFile::open(path()));
    model_ = stored_description(*file_);
    program_ = opt_program(model_);
  }

  TempDir dir_ = TempDir::in_memory();
  std::unique_ptr<ModelFile> file_;
  ModelDescription model_;
  Program program_;
};

inline std::unique_ptr<IoEngine> thread_engine() { return std::make_unique<QueuedEngine>(std::make_unique<ThreadBackend>()); }

// Weights with memory of their own
struct OwnWeights {
  Buffer resident, ring, rows;
  std::unique_ptr<TieredWeights> weights;

  // n_slots: of the ring; n_rows: that acquire_rows is asked for at most
  OwnWeights(const StreamedModel& m, WeightPlacement placement, size_t n_slots, int64_t n_rows, IoEngine& io, ThreadPool& pool,
             TieredWeightsOptions options = {})
      : resident(placement.resident_bytes()),
        ring(n_slots * TieredWeights::slot_bytes(m.file())),
        rows(TieredWeights::rows_bytes(m.file(), m.tokens(), n_rows)) {
    weights =
        std::make_unique<TieredWeights>(m.file(), std::move(placement), resident.bytes(), ring.bytes(), rows.bytes(), io, pool, std::move(options));
  }
};

}  // namespace flexgen::testing
