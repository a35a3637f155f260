// SPDX-License-Identifier: Apache-2.0
// config.json of OPT, OPT-IML and Galactica -> ModelDescription. Names, defaults and meaning are those of transformers'
// configuration_opt.py and modeling_opt.py; values are obeyed, contradictions refused.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "flexgen/base/error.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/model/description.h"

namespace flexgen {

namespace detail {

// activation_function, as transformers' activations.py names them
inline Activation opt_activation(const std::string& name, const std::string& source) {
  constexpr std::array<std::pair<std::string_view, Activation>, 7> kNames{{{"relu", Activation::relu},
                                                                           {"gelu", Activation::gelu_erf},
                                                                           {"gelu_python", Activation::gelu_erf},
                                                                           {"gelu_new", Activation::gelu_tanh},
                                                                           {"gelu_fast", Activation::gelu_tanh},
                                                                           {"gelu_accurate", Activation::gelu_tanh},
                                                                           {"gelu_pytorch_tanh", Activation::gelu_tanh}}};
  for (const auto& [known, activation] : kNames)
    if (name == known) return activation;
  std::string allowed;
  for (const auto& [known, activation] : kNames) allowed += fmt::format("{}{}", allowed.empty() ? "" : ", ", known);
  fail(Fault::checkpoint, "{}: activation_function: found '{}', allowed {}", source, printable(name), allowed);
}

}  // namespace detail

// source: the config's path, for messages. throws Fault::checkpoint
inline ModelDescription opt_description(const nlohmann::json& config, const std::string& source) {
  // Far above any model there is (OPT-175B: 96 layers of 12288, 50272 words), far below what overflows a product of three.
  constexpr int64_t kMaxLayers = 10'000, kMaxWidth = 1 << 20, kMaxRows = 1 << 24;
  const JsonFields f(config, source);

  const std::string type = f.text_or("model_type", "");
  if (type != "opt")
    fail(Fault::checkpoint, "{}: model_type: found {}, allowed 'opt'. Other families cannot be read", source,
         f.has("model_type") ? fmt::format("'{}'", printable(type)) : "nothing");
  if (const auto* q = f.find("quantization_config")) {
    const bool named = q->is_object() && q->contains("quant_method");
    fail(Fault::checkpoint, "{}: quantization_config: found {}, allowed none. Get the checkpoint that was not quantised", source,
         named ? describe((*q)["quant_method"]) : describe(*q));
  }

  ModelDescription m;
  m.family = "opt";
  if (f.has("hidden_size") && f.has("d_model") && f.whole("hidden_size", 1, kMaxWidth) != f.whole("d_model", 1, kMaxWidth))
    fail(Fault::checkpoint, "{}: hidden_size: found {}, but d_model, its older name, is {}", source, f.whole("hidden_size", 1, kMaxWidth),
         f.whole("d_model", 1, kMaxWidth));
  m.width = f.has("d_model") ? f.whole("d_model", 1, kMaxWidth) : f.whole_or("hidden_size", 768, 1, kMaxWidth);
  m.n_layers = f.whole_or("num_hidden_layers", 12, 1, kMaxLayers);
  m.ffn = f.whole_or("ffn_dim", 3072, 1, 4 * kMaxWidth);
  m.n_heads = f.whole_or("num_attention_heads", 12, 1, m.width);
  if (m.width % m.n_heads != 0)
    fail(Fault::checkpoint, "{}: num_attention_heads: found {}, allowed a divisor of hidden_size {}", source, m.n_heads, m.width);
  m.n_kv_heads = f.whole_or("num_key_value_heads", m.n_heads, 1, m.width);
  if (m.n_kv_heads != m.n_heads)
    fail(Fault::checkpoint, "{}: num_key_value_heads: found {}, allowed {}: OPT has as many as num_attention_heads", source, m.n_kv_heads, m.n_heads);
  m.head_dim = m.width / m.n_heads;
  m.vocab = f.whole_or("vocab_size", 50272, 1, kMaxRows);
  m.embed_width = f.whole_or("word_embed_proj_dim", m.width, 1, kMaxWidth);
  m.max_positions = f.whole_or("max_position_embeddings", 2048, 1, kMaxRows);
  m.position_offset = 2;  // modeling_opt.py, OPTLearnedPositionalEmbedding.__init__
  m.activation = detail::opt_activation(f.text_or("activation_function", "relu"), source);
  m.norm = f.flag_or("do_layer_norm_before", true) ? NormPlace::pre : NormPlace::post;
  m.norm_eps = 1e-5f;  // torch.nn.LayerNorm's default; the config has no key for it
  m.final_norm = m.norm == NormPlace::pre && !f.flag_or("_remove_final_layer_norm", false);
  m.bias = f.flag_or("enable_bias", true);
  m.norm_affine = f.flag_or("layer_norm_elementwise_affine", true);
  m.tied_head = f.flag_or("tie_word_embeddings", true);
  return m;
}

}  // namespace flexgen
