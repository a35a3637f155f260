// SPDX-License-Identifier: Apache-2.0
// flexgen synth: a model of any published shape with seeded random weights, as a model file or as a HuggingFace folder.
#include <fmt/core.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "flexgen/text/checked_tokenizer_files.h"
#include "flexgen/model/description_json.h"
#include "flexgen/model/named_shapes.h"
#include "flexgen/model/opt_config.h"
#include "flexgen/model/synthetic.h"
#include "tools/command.h"
#include "tools/dtype_option.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/synth_folder.h"

namespace flexgen::tools {

namespace {

struct SynthOptions {
  std::string like, output, as = "flex", dtype = "f16", tokenizer;
  int64_t layers = 0;
  uint64_t seed = 0;
  bool overwrite = false;
};

ModelDescription shape(const SynthOptions& o) {
  std::optional<ModelDescription> m = try_named_shape(o.like);
  if (!m) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(o.like, ignored))
      fail(Fault::usage, "--like: found '{}', allowed the path of a config.json, or one of {}", printable(o.like), named_shapes_list());
    m = opt_description(parse_json(read_text_file(o.like, 16_MiB), o.like), o.like);
  }
  if (o.layers < 0 || o.layers > 10'000) fail(Fault::usage, "--layers: found {}, allowed 1 to 10000", o.layers);
  if (o.layers != 0) m->n_layers = o.layers;
  return *m;
}

std::vector<PlannedRecord> planned_records(const ModelDescription& m, DType dtype) {
  std::vector<PlannedRecord> out;
  for (const RecordSpec& r : records(m)) {
    out.push_back({r.name, {}});
    for (const TensorSpec& t : r.tensors) out.back().tensors.push_back({t.name, dtype, t.shape});
  }
  return out;
}

int synth(const SynthOptions& o) {
  const ModelDescription model = shape(o);
  const auto dtype = parse_dtype(o.dtype);
  if (!dtype) fail(Fault::usage, "--dtype: found '', allowed f32, f16 or bf16");
  if (o.as != "flex" && o.as != "safetensors" && o.as != "bin")
    fail(Fault::usage, "--as: found '{}', allowed flex, safetensors or bin", printable(o.as));
  const auto tokenizer = o.tokenizer.empty() ? std::map<std::string, std::string>{} : checked_tokenizer_files(o.tokenizer);
  if (!o.tokenizer.empty() && tokenizer.empty()) fail(Fault::usage, "--tokenizer: {}: found no vocabulary there", o.tokenizer);

  catch_interrupts();
  std::atomic<uint64_t> done{0};
  // the identity follows from the seed, so that the same command makes the same file
  WriteOptions options{.file_id = layout::block_seed(o.seed, 0), .overwrite = o.overwrite, .stop = &interrupted, .done_bytes = &done};
  const auto start = std::chrono::steady_clock::now();
  uint64_t bytes = 0;
  if (o.as == "flex") {
    const auto planned = planned_records(model, *dtype);
    const nlohmann::json provenance{{"tool", "flexgen " FLEXGEN_VERSION},
                                    {"synthetic", {{"like", printable(o.like)}, {"layers", model.n_layers}, {"seed", o.seed}}}};
    const std::string text = file_description(model, tokenizer, nlohmann::json::object(), provenance, o.tokenizer);
    FilePlan plan = plan_model_file(planned, text.size(), choose_alignment(planned));
    bytes = plan.file_bytes;
    const SyntheticWeights weights(model, *dtype, o.seed);
    const Progress progress("synth", done, plan.weight_bytes());
    write_model_file(o.output, text, plan,
                     [&](const FileTensor& t, int64_t row, int64_t, std::span<std::byte> dst, int) {
                       weights.fill(t.name, static_cast<uint64_t>(row) * (t.is_vector() ? 1 : static_cast<uint64_t>(t.shape[1])), dst);
                     },
                     options);
  } else {
    bytes = synthetic_folder_bytes(model, *dtype);
    const Progress progress("synth", done, bytes);
    write_synthetic_folder(o.output, o.as == "bin" ? FolderFormat::torch : FolderFormat::safetensors, model, *dtype, o.seed, tokenizer, options);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}: {} in {:.1f} s ({}/s)\n", o.output, format_bytes(bytes), seconds,
             format_bytes(static_cast<uint64_t>(static_cast<double>(bytes) / seconds)));
  return 0;
}

}  // namespace

void add_synth(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<SynthOptions>();
  CLI::App* c = program.add_subcommand("synth", "Make a model of a published shape with random weights, for benchmarks and planning");
  c->add_option("--like", o->like, "The shape: path of a config.json, or " + named_shapes_list())->required();
  c->add_option("-o,--output", o->output, "The model file, or the folder with --as")->required();
  c->add_option("--layers", o->layers, "Only so many layers");
  c->add_option("--tokenizer", o->tokenizer, "Folder with tokenizer files to put inside");
  c->add_option("--dtype", o->dtype, "f32, f16 or bf16")->capture_default_str();
  c->add_option("--seed", o->seed, "Of the weights")->capture_default_str();
  c->add_option("--as", o->as, "flex, or a HuggingFace folder: safetensors or bin")->capture_default_str();
  c->add_flag("--overwrite", o->overwrite, "Replace the output if it exists");
  c->callback([o, &selected] { selected = [o] { return synth(*o); }; });
}

}  // namespace flexgen::tools
