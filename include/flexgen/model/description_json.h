// SPDX-License-Identifier: Apache-2.0
// A model description as JSON, as model files hold it: every field written, every field demanded, and a key that this program does not
// know refused, because it may be a switch that changes the result.
#pragma once

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "flexgen/format/json_fields.h"
#include "flexgen/format/model_file.h"
#include "flexgen/model/description.h"
#include "flexgen/model/records.h"

namespace flexgen {

inline std::string_view name(Activation a) {
  switch (a) {
    case Activation::none: return "none";
    case Activation::relu: return "relu";
    case Activation::gelu_erf: return "gelu_erf";
    case Activation::gelu_tanh: return "gelu_tanh";
  }
  return "none";
}

inline nlohmann::json to_json(const ModelDescription& m) {
  return {{"family", m.family},
          {"n_layers", m.n_layers},
          {"width", m.width},
          {"ffn", m.ffn},
          {"n_heads", m.n_heads},
          {"n_kv_heads", m.n_kv_heads},
          {"head_dim", m.head_dim},
          {"vocab", m.vocab},
          {"embed_width", m.embed_width},
          {"max_positions", m.max_positions},
          {"position_offset", m.position_offset},
          {"activation", name(m.activation)},
          {"norm", m.norm == NormPlace::pre ? "pre" : "post"},
          {"norm_eps", m.norm_eps},
          {"final_norm", m.final_norm},
          {"bias", m.bias},
          {"norm_affine", m.norm_affine},
          {"tied_head", m.tied_head}};
}

// source: what messages call it. Missing, unknown, out of range or contradicting: Fault::checkpoint
inline ModelDescription description_from_json(const nlohmann::json& json, const std::string& source) {
  const JsonFields fields(json, source);
  constexpr int64_t kWidth = 1 << 24, kCount = INT32_MAX;
  ModelDescription m;
  m.family = fields.text("family");
  if (m.family != "opt") fail(Fault::checkpoint, "{}: family: found '{}', allowed opt. Update flexgen", source, printable(m.family));
  m.n_layers = fields.whole("n_layers", 1, 100'000);
  m.width = fields.whole("width", 1, kWidth);
  m.ffn = fields.whole("ffn", 1, kWidth);
  m.n_heads = fields.whole("n_heads", 1, kWidth);
  m.n_kv_heads = fields.whole("n_kv_heads", 1, m.n_heads);
  m.head_dim = fields.whole("head_dim", 1, kWidth);
  m.vocab = fields.whole("vocab", 1, kCount);
  m.embed_width = fields.whole("embed_width", 1, kWidth);
  m.max_positions = fields.whole("max_positions", 1, kCount);
  m.position_offset = fields.whole("position_offset", 0, kCount - m.max_positions);
  const auto one_of = [&](std::string_view key, std::initializer_list<std::string_view> allowed) {
    const std::string found = fields.text(key);
    const auto* at = std::find(allowed.begin(), allowed.end(), found);
    if (at == allowed.end())
      fail(Fault::checkpoint, "{}: {}: found '{}', allowed {}. Update flexgen", source, key, printable(found), fmt::join(allowed, ", "));
    return static_cast<int>(at - allowed.begin());
  };
  m.activation = static_cast<Activation>(one_of("activation", {"none", "relu", "gelu_erf", "gelu_tanh"}));
  m.norm = one_of("norm", {"pre", "post"}) == 0 ? NormPlace::pre : NormPlace::post;
  m.norm_eps = static_cast<float>(fields.number("norm_eps", 0, 1));
  m.final_norm = fields.flag("final_norm");
  m.bias = fields.flag("bias");
  m.norm_affine = fields.flag("norm_affine");
  m.tied_head = fields.flag("tied_head");
  for (const nlohmann::json known = to_json(m); const auto& [key, value] : json.items())
    if (!known.contains(key)) fail(Fault::checkpoint, "{}: '{}' is not known to this version. Update flexgen", source, printable(key));
  if (m.n_heads % m.n_kv_heads != 0)
    fail(Fault::checkpoint, "{}: n_kv_heads: found {}, allowed a divisor of n_heads ({})", source, m.n_kv_heads, m.n_heads);
  if (m.n_heads * m.head_dim != m.width)
    fail(Fault::checkpoint, "{}: {} heads of {} make {}, the width is {}", source, m.n_heads, m.head_dim, m.n_heads * m.head_dim, m.width);
  return m;
}

// What a model file says about itself: the text of its JSON section. generation: an object, as in generation_config.json; tokenizer:
// file name -> text, which must be UTF-8 (Fault::checkpoint naming the file otherwise)
inline std::string file_description(const ModelDescription& model, const std::map<std::string, std::string>& tokenizer,
                                    const nlohmann::json& generation, const nlohmann::json& provenance, const std::string& source) {
  for (const auto& [name, text] : tokenizer) {
    try {
      (void)nlohmann::json(text).dump();
    } catch (const nlohmann::json::type_error&) {
      fail(Fault::checkpoint, "{}/{}: found text that is not UTF-8. Download it again", source, name);
    }
  }
  std::string text =
      nlohmann::json{{"model", to_json(model)}, {"tokenizer", tokenizer}, {"generation", generation}, {"provenance", provenance}}.dump();
  if (text.size() > ModelFile::kMaxJson)
    fail(Fault::checkpoint, "{}: tokenizer and description: found {} bytes, allowed {}", source, with_commas(text.size()),
         with_commas(ModelFile::kMaxJson));
  return text;
}

// The description in the file, after the file's records and tensors were found to be exactly the ones that it demands
inline ModelDescription stored_description(const ModelFile& file) {
  const std::string& path = file.file().path();
  const ModelDescription m = description_from_json(file.description().at("model"), path + ": model");
  const auto differs = [&](std::string_view what, std::string_view found, std::string_view wanted) {
    fail(Fault::checkpoint, "{}: {}: found {}, the model description asks for {}. Convert the model again", path, what, found, wanted);
  };
  if (file.records().size() < static_cast<size_t>(2 * m.n_layers))
    differs("records", std::to_string(file.records().size()), fmt::format("{} layers of 2", m.n_layers));
  const auto wanted = records(m);
  if (file.records().size() != wanted.size()) differs("records", std::to_string(file.records().size()), std::to_string(wanted.size()));
  for (size_t r = 0; r < wanted.size(); ++r) {
    const FileRecord& record = file.records()[r];
    if (record.name != wanted[r].name) differs(fmt::format("record {}", r), "'" + record.name + "'", "'" + wanted[r].name + "'");
    if (record.n_tensors != wanted[r].tensors.size())
      differs(fmt::format("record '{}'", record.name), fmt::format("{} tensors", record.n_tensors), std::to_string(wanted[r].tensors.size()));
    for (size_t i = 0; i < record.n_tensors; ++i) {
      const FileTensor& t = file.tensors()[record.first_tensor + i];
      const TensorSpec& spec = wanted[r].tensors[i];
      if (t.name != spec.name) differs(fmt::format("tensor {} of record '{}'", i, record.name), "'" + t.name + "'", "'" + spec.name + "'");
      if (t.shape != spec.shape) differs(fmt::format("tensor '{}'", t.name), to_string(t.shape), to_string(spec.shape));
    }
  }
  return m;
}

}  // namespace flexgen
