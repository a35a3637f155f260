// SPDX-License-Identifier: Apache-2.0
// Where each tensor of an OPT model lies in a HuggingFace checkpoint: names in all their variants, parts that become one matrix (q, k
// and v), shapes held against the config. What config and checkpoint disagree on is either settled as transformers does, with a note,
// or an error.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/checkpoint.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/model/description.h"
#include "flexgen/model/records.h"
#include "flexgen/tensor/dtype.h"
#include "flexgen/tensor/shape.h"

namespace flexgen {

// One tensor of the model and the stored tensors whose rows, one after the other, are its rows
struct TensorSource {
  std::string name;                        // TensorSpec::name
  Shape shape;                             // TensorSpec::shape
  DType dtype;                             // the stored one; where parts differ, f32, which holds f16 and bf16 exactly
  std::vector<const StoredTensor*> parts;  // point into the checkpoint; all can be read (require_readable)
};

struct ModelSources {
  ModelDescription description;       // the config's, with switches off for what the checkpoint has nothing of
  std::vector<TensorSource> tensors;  // every tensor of records(description), in that order
  std::vector<std::string> notes;     // for the user: what was settled, and how
};

namespace detail {

class OptSourceFinder {
 public:
  OptSourceFinder(const Checkpoint& checkpoint, const ModelDescription& description, const std::string& config_source)
      : checkpoint_(checkpoint), config_(config_source) {
    out_.description = description;
  }

  ModelSources find() {
    find_prefix();
    check_layers();
    settle_switches();
    const ModelDescription& m = out_.description;
    for (const RecordSpec& record : records(m))
      for (const TensorSpec& spec : record.tensors)
        out_.tensors.push_back(source(spec, std::string_view(spec.name).substr(record.name.size() + 1), record.name));
    note_unused();
    return std::move(out_);
  }

 private:
  using Names = std::vector<std::string>;  // one tensor's names, the usual one first

  // modeling_opt.py: OPTForCausalLM saves model.decoder.*, OPTModel decoder.*, OPTDecoder neither
  void find_prefix() {
    constexpr std::array<std::string_view, 3> kPrefixes{"model.decoder.", "decoder.", ""};
    bool found = false;
    for (const std::string_view p : kPrefixes) {
      const StoredTensor* t = checkpoint_.find(std::string(p) + "embed_tokens.weight");
      if (!t) continue;
      if (found)
        fail(Fault::checkpoint, "{}: found both '{}embed_tokens.weight' and '{}'; refusing an ambiguous checkpoint", checkpoint_.path(*t), prefix_,
             t->name);
      prefix_ = p;
      found = true;
    }
    if (!found) {
      const auto all = checkpoint_.tensors();
      fail(Fault::checkpoint,
           "{}: tensor 'model.decoder.embed_tokens.weight' (or without 'model.', or without 'model.decoder.') is missing: found {} tensors{}. "
           "This is no OPT checkpoint",
           checkpoint_.file(0).path(), all.size(), all.empty() ? "" : fmt::format(", the first is '{}'", printable(all[0].name)));
    }
  }

  // layer number of "<prefix>layers.N.<rest>", and rest; -1 for other names
  std::pair<int64_t, std::string_view> layer_of(std::string_view name) const {
    const std::string head = prefix_ + "layers.";
    if (!name.starts_with(head)) return {-1, {}};
    name.remove_prefix(head.size());
    const size_t dot = name.find('.');
    if (dot == 0 || dot == name.npos || dot > 9) return {-1, {}};
    int64_t n = 0;
    for (const char c : name.substr(0, dot)) {
      if (c < '0' || c > '9') return {-1, {}};
      n = n * 10 + (c - '0');
    }
    return {n, name.substr(dot + 1)};
  }

  void check_layers() {
    for (const StoredTensor& t : checkpoint_.tensors()) n_stored_layers_ = std::max(n_stored_layers_, layer_of(t.name).first + 1);
    const int64_t n = out_.description.n_layers;
    if (n_stored_layers_ > n)
      fail(Fault::checkpoint, "{}: num_hidden_layers: found {}, but the checkpoint has {} layers: {}. Config and weights are of different models",
           config_, n, n_stored_layers_, checkpoint_.file(0).path());
  }

  static bool is_linear_bias(std::string_view rest) {
    for (const char* name :
         {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "self_attn.out_proj.bias", "fc1.bias", "fc2.bias"})
      if (rest == name) return true;
    return false;
  }
  static bool is_norm(std::string_view rest) { return rest.starts_with("self_attn_layer_norm.") || rest.starts_with("final_layer_norm."); }
  bool is_final_norm(std::string_view name) const {
    if (!name.starts_with(prefix_)) return false;
    name.remove_prefix(prefix_.size());
    return name.starts_with("final_layer_norm.") || name.starts_with("layer_norm.");
  }

  void settle_switches() {
    ModelDescription& m = out_.description;
    bool any_bias = false, any_norm = false, any_final = false;
    for (const StoredTensor& t : checkpoint_.tensors()) {
      const auto [layer, rest] = layer_of(t.name);
      if (layer >= 0) any_bias |= is_linear_bias(rest), any_norm |= is_norm(rest);
      any_final |= is_final_norm(t.name);
    }
    settle(m.bias, any_bias, "enable_bias", "linear layers have biases");
    settle(m.norm_affine, any_norm || (any_final && m.final_norm), "layer_norm_elementwise_affine", "norms have weights");
    if (any_final && !m.final_norm)
      note("{}: the checkpoint has a final norm, but {}: it is ignored, as transformers does", config_,
           m.norm == NormPlace::pre ? "_remove_final_layer_norm is true" : "do_layer_norm_before is false");
    if (!m.has_projection())
      for (const char* name : {"project_in.weight", "project_out.weight"})
        if (const StoredTensor* t = checkpoint_.find(prefix_ + name))
          fail(Fault::checkpoint,
               "{}: word_embed_proj_dim: found {}, the same as hidden_size, but the checkpoint has {} of shape {}. Config and weights are of "
               "different models",
               config_, m.embed_width, quoted(*t), to_string(t->shape));
  }

  void settle(bool& wanted, bool stored, const char* key, const char* what) {
    if (wanted && !stored) note("{}: {} is true or absent, but nothing in the checkpoint says that {}: taken as false", config_, key, what);
    if (!wanted && stored) note("{}: {} is false, but in the checkpoint {}: they are ignored, as transformers does", config_, key, what);
    wanted = wanted && stored;
  }

  // names of the stored tensors that make up one tensor of the model, in row order
  std::vector<Names> stored_names(std::string_view tensor, std::string_view record) const {
    const auto here = [this](std::string_view rest) { return prefix_ + std::string(rest); };
    if (record == "embed") {
      if (tensor == "tokens") return {{here("embed_tokens.weight")}};
      if (tensor == "positions") return {{here("embed_positions.weight")}};
      return {{here("project_in.weight"), here("project_in_dim.weight")}};
    }
    if (record == "head") {
      if (tensor == "project_out") return {{here("project_out.weight"), here("project_out_dim.weight")}};
      if (tensor == "logits") return {{"lm_head.weight", here("output_projection.weight")}};
      const std::string_view kind = tensor.substr(tensor.find('.'));  // ".weight"
      return {{here("final_layer_norm") + std::string(kind), here("layer_norm") + std::string(kind)}};
    }
    const std::string layer = prefix_ + std::string(record.substr(0, record.rfind('.'))) + ".";  // "<prefix>layers.N."
    const bool attention = record.ends_with(".attn");
    const size_t dot = tensor.find('.');
    const std::string_view part = tensor.substr(0, dot);
    const std::string kind(tensor.substr(dot));
    if (part == "norm") return {{layer + (attention ? "self_attn_layer_norm" : "final_layer_norm") + kind}};
    if (part == "qkv") return {{layer + "self_attn.q_proj" + kind}, {layer + "self_attn.k_proj" + kind}, {layer + "self_attn.v_proj" + kind}};
    if (part == "out") return {{layer + "self_attn.out_proj" + kind}};
    return {{layer + std::string(part) + kind}};
  }

  TensorSource source(const TensorSpec& spec, std::string_view tensor, std::string_view record) {
    TensorSource s{spec.name, spec.shape, DType::f32, {}};
    const auto names = stored_names(tensor, record);
    const ModelDescription& m = out_.description;
    for (size_t i = 0; i < names.size(); ++i) {
      Shape shape = spec.shape;
      if (names.size() == 3) shape[0] = (i == 0 ? m.n_heads : m.n_kv_heads) * m.head_dim;
      s.parts.push_back(&stored(names[i], shape, tensor, record));
    }
    s.dtype = *s.parts[0]->dtype;
    for (const StoredTensor* p : s.parts)
      if (*p->dtype != s.dtype) s.dtype = DType::f32;
    return s;
  }

  const StoredTensor& stored(const Names& names, const Shape& shape, std::string_view tensor, std::string_view record) {
    const StoredTensor* t = nullptr;
    for (const std::string& name : names)
      if (!t) t = checkpoint_.find(name);
    if (!t) {
      std::string why;
      if (n_stored_layers_ < out_.description.n_layers && record.starts_with("layers."))
        why = fmt::format(" ({} says {} layers, the checkpoint has {})", config_, out_.description.n_layers, n_stored_layers_);
      else if (tensor == "logits")
        why = fmt::format(" ({} says tie_word_embeddings is false)", config_);
      else if (record == "head" && tensor.starts_with("norm"))
        why = fmt::format(" (a model without a final norm has _remove_final_layer_norm true in {})", config_);
      fail(Fault::checkpoint, "{}: tensor '{}' is missing{}", checkpoint_.file(0).path(), printable(names[0]), why);
    }
    require_readable(*t, checkpoint_.path(*t));
    if (t->shape != shape)
      fail(Fault::checkpoint, "{}: {}: shape: found {}, allowed {}, which is what {} says ({})", checkpoint_.path(*t), quoted(*t),
           to_string(t->shape), to_string(shape), config_, sizes());
    used_.insert(t->name);
    return *t;
  }

  std::string sizes() const {
    const ModelDescription& m = out_.description;
    return fmt::format("vocab_size {}, hidden_size {}, ffn_dim {}, word_embed_proj_dim {}, max_position_embeddings {}", m.vocab, m.width, m.ffn,
                       m.embed_width, m.max_positions);
  }

  void note_unused() {
    size_t n = 0;
    std::string first;
    for (const StoredTensor& t : checkpoint_.tensors()) {
      const auto [layer, rest] = layer_of(t.name);
      const bool explained = used_.count(t.name) || t.name == "lm_head.weight" || t.name == prefix_ + "output_projection.weight" ||
                             t.name == prefix_ + "version" || (layer >= 0 && (is_linear_bias(rest) || is_norm(rest))) || is_final_norm(t.name);
      if (explained) continue;
      if (n++ == 0) first = t.name;
    }
    if (n > 0) note("{}: {} tensors that OPT does not have are ignored, the first is '{}'", checkpoint_.file(0).path(), n, printable(first));
  }

  template <typename... Args>
  void note(fmt::format_string<Args...> form, Args&&... args) {
    out_.notes.push_back(fmt::format(form, std::forward<Args>(args)...));
  }

  const Checkpoint& checkpoint_;
  const std::string& config_;
  ModelSources out_;
  std::string prefix_;
  int64_t n_stored_layers_ = 0;
  std::set<std::string, std::less<>> used_;
};

}  // namespace detail

// description: of the config (opt_description); config_source: its path, for messages. The checkpoint must outlive the result.
// throws Fault::checkpoint
inline ModelSources opt_sources(const Checkpoint& checkpoint, const ModelDescription& description, const std::string& config_source) {
  return detail::OptSourceFinder(checkpoint, description, config_source).find();
}

}  // namespace flexgen
