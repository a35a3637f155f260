// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/opt_checkpoint.h"

#include <filesystem>
#include <map>

#include "flexgen/format/json.h"
#include "flexgen/format/row_reader.h"
#include "flexgen/model/opt_config.h"
#include "support/errors.h"
#include "support/safetensors_writer.h"
#include "support/temp_dir.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

struct Tensor {
  std::string dtype;
  Shape shape;
};
using Tensors = std::map<std::string, Tensor>;

// A model of 2 layers, E 4, F 6, 2 heads, V 5, P 3
constexpr const char* kConfig =
    R"("num_hidden_layers": 2, "hidden_size": 4, "ffn_dim": 6, "num_attention_heads": 2, "vocab_size": 5, "max_position_embeddings": 3)";

Tensors tiny(const std::string& prefix = "model.decoder.", int64_t n_layers = 2) {
  Tensors t;
  const auto add = [&](const std::string& name, Shape shape) { t[prefix + name] = {"F16", std::move(shape)}; };
  add("embed_tokens.weight", {5, 4});
  add("embed_positions.weight", {5, 4});
  add("final_layer_norm.weight", {4});
  add("final_layer_norm.bias", {4});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string l = fmt::format("layers.{}.", i);
    for (const char* p : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"})
      add(l + p + ".weight", {4, 4}), add(l + p + ".bias", {4});
    for (const char* n : {"self_attn_layer_norm", "final_layer_norm"}) add(l + n + ".weight", {4}), add(l + n + ".bias", {4});
    add(l + "fc1.weight", {6, 4}), add(l + "fc1.bias", {6}), add(l + "fc2.weight", {4, 6}), add(l + "fc2.bias", {4});
  }
  return t;
}

void erase_if_contains(Tensors& t, const std::string& what) {
  std::erase_if(t, [&](const auto& item) { return item.first.find(what) != std::string::npos; });
}

// A checkpoint of these tensors, kept open, and its sources
struct Opened {
  TempDir dir;
  Checkpoint checkpoint;
  ModelSources sources;

  explicit Opened(const Tensors& tensors, const std::string& members = "") : checkpoint(open(dir, tensors)) {
    const auto config = parse_json(fmt::format(R"({{"model_type": "opt", {}{}{}}})", kConfig, members.empty() ? "" : ", ", members), "config.json");
    sources = opt_sources(checkpoint, opt_description(config, "config.json"), "config.json");
  }
  const TensorSource& source(const std::string& name) const {
    for (const TensorSource& s : sources.tensors)
      if (s.name == name) return s;
    throw std::out_of_range(name);
  }
  bool has(const std::string& name) const {
    for (const TensorSource& s : sources.tensors)
      if (s.name == name) return true;
    return false;
  }
  std::string part_names(const std::string& name) const {
    std::string out;
    for (const StoredTensor* p : source(name).parts) out += (out.empty() ? "" : " ") + p->name;
    return out;
  }

  static Checkpoint open(const TempDir& dir, const Tensors& tensors) {
    std::string header;
    uint64_t at = 0;
    for (const auto& [name, t] : tensors) {
      uint64_t bytes = t.dtype == "F32" ? 4 : t.dtype == "I64" ? 8 : 2;
      for (const int64_t d : t.shape) bytes *= static_cast<uint64_t>(d);
      header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", header.empty() ? "" : ",", name, t.dtype,
                            to_string(t.shape), at, at + bytes);
      at += bytes;
    }
    dir.write("model.safetensors", safetensors_file(fmt::format("{{{}}}", header), std::string(at, '\0')));
    return Checkpoint::open(dir.path());
  }
};

void check_refused(const Tensors& tensors, const std::string& members, const std::string& message) {
  INFO(message);
  CHECK_FAULT(Opened(tensors, members), Fault::checkpoint, message);
}

// every tensor of the model: parts that add up to its shape, all readable
void check_complete(const ModelSources& s) {
  size_t i = 0;
  for (const RecordSpec& record : records(s.description))
    for (const TensorSpec& spec : record.tensors) {
      REQUIRE(i < s.tensors.size());
      const TensorSource& t = s.tensors[i++];
      INFO(t.name);
      CHECK(t.name == spec.name);
      CHECK(t.shape == spec.shape);
      int64_t rows = 0;
      for (const StoredTensor* p : t.parts) {
        rows += p->shape[0];
        CHECK(Shape(p->shape.begin() + 1, p->shape.end()) == Shape(spec.shape.begin() + 1, spec.shape.end()));
        CHECK(p->problem.empty());
      }
      CHECK(rows == spec.shape[0]);
    }
  CHECK(i == s.tensors.size());
}

ModelSources golden_sources(const Checkpoint& c, const std::string& folder) {
  const std::string config = folder + "/config.json";
  return opt_sources(c, opt_description(parse_json(read_text_file(config), config), config), config);
}

}  // namespace

TEST_CASE("committed checkpoints have a source for every tensor", "[model]") {
  const std::map<std::string, size_t> n_tensors{
      {"golden/prenorm-f16-bin", 40}, {"golden/postnorm-proj-f16", 40}, {"golden/head128-bf16-sharded", 28}, {"tiny-opt", 76}};
  for (const auto& [name, n] : n_tensors) {
    INFO(name);
    const Checkpoint c = Checkpoint::open(test_data(name));
    const ModelSources s = golden_sources(c, test_data(name));
    CHECK(s.tensors.size() == n);
    CHECK(s.notes.empty());
    check_complete(s);
  }
}

TEST_CASE("all golden checkpoints have a source for every tensor", "[model]") {
  const auto golden = shared_data("golden/opt");
  if (!golden) return;
  for (const auto& folder : std::filesystem::directory_iterator(*golden)) {
    INFO(folder.path());
    const Checkpoint c = Checkpoint::open(folder.path().string());
    const ModelSources s = golden_sources(c, folder.path().string());
    CHECK(s.notes.empty());
    check_complete(s);
    const std::string name = folder.path().filename();
    CHECK(s.description.final_norm == (name != "no-final-norm" && name.find("postnorm") == name.npos));
    CHECK(s.description.tied_head == (name != "untied-head"));
    CHECK(s.description.bias == (name != "no-bias-no-affine"));
    CHECK(s.description.has_projection() == (name.find("proj") != name.npos));
  }
}

TEST_CASE("q, k and v become one matrix, in that order", "[model]") {
  const Opened o(tiny());
  check_complete(o.sources);
  CHECK(o.sources.notes.empty());
  CHECK(
      o.part_names("layers.1.attn.qkv.weight") ==
      "model.decoder.layers.1.self_attn.q_proj.weight model.decoder.layers.1.self_attn.k_proj.weight model.decoder.layers.1.self_attn.v_proj.weight");
  CHECK(o.part_names("layers.0.attn.qkv.bias") ==
        "model.decoder.layers.0.self_attn.q_proj.bias model.decoder.layers.0.self_attn.k_proj.bias model.decoder.layers.0.self_attn.v_proj.bias");
  CHECK(o.part_names("layers.1.attn.norm.weight") == "model.decoder.layers.1.self_attn_layer_norm.weight");
  CHECK(o.part_names("layers.1.mlp.norm.bias") == "model.decoder.layers.1.final_layer_norm.bias");
  CHECK(o.part_names("layers.0.attn.out.weight") == "model.decoder.layers.0.self_attn.out_proj.weight");
  CHECK(o.part_names("layers.0.mlp.fc1.bias") == "model.decoder.layers.0.fc1.bias");
  CHECK(o.part_names("layers.0.mlp.fc2.weight") == "model.decoder.layers.0.fc2.weight");
  CHECK(o.part_names("head.norm.weight") == "model.decoder.final_layer_norm.weight");
  CHECK(o.part_names("embed.positions") == "model.decoder.embed_positions.weight");
  CHECK(o.source("layers.0.attn.qkv.weight").dtype == DType::f16);
}

TEST_CASE("names as the different savers wrote them", "[model]") {
  for (const char* prefix : {"model.decoder.", "decoder.", ""}) {
    const Opened o(tiny(prefix));
    check_complete(o.sources);
    CHECK(o.part_names("embed.tokens") == std::string(prefix) + "embed_tokens.weight");
  }
  Tensors t = tiny("decoder.");  // metaseq's names for the final norm, and what it has beside
  t["decoder.layer_norm.weight"] = t["decoder.final_layer_norm.weight"], t.erase("decoder.final_layer_norm.weight");
  t["decoder.layer_norm.bias"] = t["decoder.final_layer_norm.bias"], t.erase("decoder.final_layer_norm.bias");
  t["decoder.version"] = {"F32", {1}};
  t["decoder.output_projection.weight"] = {"F16", {5, 4}};
  const Opened o(t);
  CHECK(o.sources.notes.empty());
  CHECK(o.part_names("head.norm.weight") == "decoder.layer_norm.weight");
  CHECK(o.part_names("head.norm.bias") == "decoder.layer_norm.bias");
  CHECK_FALSE(o.has("head.logits"));
  CHECK(Opened(t, R"("tie_word_embeddings": false)").part_names("head.logits") == "decoder.output_projection.weight");

  Tensors both = tiny();
  both["decoder.embed_tokens.weight"] = {"F16", {5, 4}};
  check_refused(
      both, "",
      "/model.safetensors: found both 'model.decoder.embed_tokens.weight' and 'decoder.embed_tokens.weight'; refusing an ambiguous checkpoint");
  check_refused({{"h.0.attn.weight", {"F16", {5}}}}, "",
                "/model.safetensors: tensor 'model.decoder.embed_tokens.weight' (or without 'model.', or without 'model.decoder.') is missing: "
                "found 1 tensors, the first is 'h.0.attn.weight'. This is no OPT checkpoint");
  check_refused({}, "", "is missing: found 0 tensors. This is no OPT checkpoint");
}

TEST_CASE("tied and untied heads", "[model]") {
  Tensors t = tiny();
  t["lm_head.weight"] = {"F16", {5, 4}};
  CHECK_FALSE(Opened(t).has("head.logits"));
  CHECK(Opened(t).sources.notes.empty());
  CHECK(Opened(t, R"("tie_word_embeddings": false)").part_names("head.logits") == "lm_head.weight");
  check_refused(tiny(), R"("tie_word_embeddings": false)", "tensor 'lm_head.weight' is missing (config.json says tie_word_embeddings is false)");
}

TEST_CASE("mixed number formats are read in one that holds them all", "[model]") {
  Tensors t = tiny();
  t["model.decoder.layers.0.self_attn.k_proj.weight"].dtype = "BF16";
  t["model.decoder.layers.1.fc1.weight"].dtype = "F32";
  const Opened o(t);
  CHECK(o.source("layers.0.attn.qkv.weight").dtype == DType::f32);
  CHECK(o.source("layers.1.attn.qkv.weight").dtype == DType::f16);
  CHECK(o.source("layers.1.mlp.fc1.weight").dtype == DType::f32);
  t["model.decoder.layers.1.fc1.weight"].dtype = "I64";
  check_refused(t, "", "/model.safetensors: tensor 'model.decoder.layers.1.fc1.weight': data type: found i64, allowed f32, f16 or bf16");
}

TEST_CASE("switches follow what the whole checkpoint has", "[model]") {
  Tensors no_bias = tiny();
  for (const char* p : {"_proj.bias", "fc1.bias", "fc2.bias"}) erase_if_contains(no_bias, p);
  const Opened a(no_bias);
  CHECK_FALSE(a.sources.description.bias);
  REQUIRE(a.sources.notes.size() == 1);
  CHECK(a.sources.notes[0] ==
        "config.json: enable_bias is true or absent, but nothing in the checkpoint says that linear layers have biases: taken as false");
  CHECK_FALSE(a.has("layers.0.attn.qkv.bias"));
  CHECK(a.has("layers.0.attn.norm.bias"));

  Tensors no_norm = tiny();
  erase_if_contains(no_norm, "layer_norm");
  const Opened b(no_norm);
  CHECK_FALSE(b.sources.description.norm_affine);
  REQUIRE(b.sources.notes.size() == 1);
  CHECK(b.sources.notes[0] ==
        "config.json: layer_norm_elementwise_affine is true or absent, but nothing in the checkpoint says that norms have weights: taken as false");
  CHECK(b.sources.description.final_norm);
  CHECK_FALSE(b.has("head.norm.weight"));

  const Opened c(tiny(), R"("enable_bias": false, "layer_norm_elementwise_affine": false)");
  REQUIRE(c.sources.notes.size() == 2);
  CHECK(c.sources.notes[0] ==
        "config.json: enable_bias is false, but in the checkpoint linear layers have biases: they are ignored, as transformers does");
  CHECK(c.sources.notes[1] ==
        "config.json: layer_norm_elementwise_affine is false, but in the checkpoint norms have weights: they are ignored, as transformers does");
  CHECK_FALSE(c.has("layers.0.mlp.fc1.bias"));
  CHECK_FALSE(c.has("layers.0.mlp.norm.weight"));

  const Opened d(tiny(), R"("_remove_final_layer_norm": true)");
  REQUIRE(d.sources.notes.size() == 1);
  CHECK(d.sources.notes[0] ==
        "config.json: the checkpoint has a final norm, but _remove_final_layer_norm is true: it is ignored, as transformers does");
  CHECK_FALSE(d.has("head.norm.weight"));
  const Opened e(tiny(), R"("do_layer_norm_before": false)");
  REQUIRE(e.sources.notes.size() == 1);
  CHECK(e.sources.notes[0] == "config.json: the checkpoint has a final norm, but do_layer_norm_before is false: it is ignored, as transformers does");

  Tensors more = tiny();
  more["model.decoder.layers.0.extra"] = more["rotary"] = {"F16", {1}};
  const Opened f(more);
  REQUIRE(f.sources.notes.size() == 1);
  CHECK_THAT(f.sources.notes[0],
             Catch::EndsWith("/model.safetensors: 2 tensors that OPT does not have are ignored, the first is 'model.decoder.layers.0.extra'"));
}

TEST_CASE("some missing, too many, other shapes: refused by name", "[model]") {
  const auto without = [](const std::string& name) {
    Tensors t = tiny();
    REQUIRE(t.erase(cat("model.decoder.", name)) == 1);
    return t;
  };
  check_refused(without("layers.1.self_attn.k_proj.bias"), "",
                "/model.safetensors: tensor 'model.decoder.layers.1.self_attn.k_proj.bias' is missing");
  check_refused(without("layers.1.fc2.bias"), "", "tensor 'model.decoder.layers.1.fc2.bias' is missing");
  check_refused(without("layers.0.final_layer_norm.bias"), "", "tensor 'model.decoder.layers.0.final_layer_norm.bias' is missing");
  check_refused(without("layers.0.self_attn.v_proj.weight"), "", "tensor 'model.decoder.layers.0.self_attn.v_proj.weight' is missing");
  check_refused(without("embed_positions.weight"), "", "tensor 'model.decoder.embed_positions.weight' is missing");
  check_refused(
      without("final_layer_norm.weight"), "",
      "tensor 'model.decoder.final_layer_norm.weight' is missing (a model without a final norm has _remove_final_layer_norm true in config.json)");
  check_refused(tiny("model.decoder.", 1), "",
                "tensor 'model.decoder.layers.1.self_attn_layer_norm.weight' is missing (config.json says 2 layers, the checkpoint has 1)");
  check_refused(tiny("model.decoder.", 3), "", "config.json: num_hidden_layers: found 2, but the checkpoint has 3 layers: ");
  check_refused(tiny(), R"("word_embed_proj_dim": 2)",
                "/model.safetensors: tensor 'model.decoder.embed_tokens.weight': shape: found [5, 4], allowed [5, 2], which is what config.json says "
                "(vocab_size 5, hidden_size 4, ffn_dim 6, word_embed_proj_dim 2, max_position_embeddings 3)");

  const auto shaped = [](const std::string& name, Shape shape) {
    Tensors t = tiny();
    t[cat("model.decoder.", name)].shape = std::move(shape);
    return t;
  };
  check_refused(shaped("embed_tokens.weight", {6, 4}), "",
                "tensor 'model.decoder.embed_tokens.weight': shape: found [6, 4], allowed [5, 4], which is what config.json says (vocab_size 5,");
  check_refused(shaped("embed_positions.weight", {3, 4}), "", "tensor 'model.decoder.embed_positions.weight': shape: found [3, 4], allowed [5, 4]");
  check_refused(shaped("layers.1.fc1.weight", {4, 6}), "", "tensor 'model.decoder.layers.1.fc1.weight': shape: found [4, 6], allowed [6, 4]");
  check_refused(shaped("layers.1.self_attn.q_proj.bias", {4, 1}), "",
                "tensor 'model.decoder.layers.1.self_attn.q_proj.bias': shape: found [4, 1], allowed [4]");

  Tensors projected = tiny();
  projected["model.decoder.project_in.weight"] = {"F16", {4, 2}};
  check_refused(projected, "",
                "config.json: word_embed_proj_dim: found 4, the same as hidden_size, but the checkpoint has tensor 'model.decoder.project_in.weight' "
                "of shape [4, 2]");
}

TEST_CASE("projections as OPT-350m has them", "[model]") {
  Tensors t = tiny();
  t["model.decoder.embed_tokens.weight"].shape = {5, 2};
  t["model.decoder.project_in.weight"] = {"F16", {4, 2}};
  t["model.decoder.project_out.weight"] = {"F16", {2, 4}};
  const Opened o(t, R"("word_embed_proj_dim": 2)");
  check_complete(o.sources);
  CHECK(o.part_names("embed.project_in") == "model.decoder.project_in.weight");
  CHECK(o.part_names("head.project_out") == "model.decoder.project_out.weight");
  t.erase("model.decoder.project_out.weight");
  check_refused(t, R"("word_embed_proj_dim": 2)", "tensor 'model.decoder.project_out.weight' is missing");
}
