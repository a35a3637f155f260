// SPDX-License-Identifier: Apache-2.0
// The published OPT shapes by name: OPT (facebookresearch/metaseq, projects/OPT), OPT-IML of the same shapes, and Galactica
// (paperswithcode/galai, galai/utils.py). For synthetic models and for planning without a checkpoint.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "flexgen/model/description.h"

namespace flexgen {

struct NamedShape {
  std::string_view name;
  int64_t n_layers, width, n_heads;
  int64_t embed_width;  // W
  bool galactica;       // gelu, vocabulary of 50,000
};

inline constexpr std::array kNamedShapes{
    NamedShape{"opt-125m", 12, 768, 12, 768, false},
    NamedShape{"opt-350m", 24, 1024, 16, 512, false},  // norms after the residual, no final norm
    NamedShape{"opt-1.3b", 24, 2048, 32, 2048, false},
    NamedShape{"opt-2.7b", 32, 2560, 32, 2560, false},
    NamedShape{"opt-6.7b", 32, 4096, 32, 4096, false},
    NamedShape{"opt-13b", 40, 5120, 40, 5120, false},
    NamedShape{"opt-30b", 48, 7168, 56, 7168, false},
    NamedShape{"opt-66b", 64, 9216, 72, 9216, false},
    NamedShape{"opt-175b", 96, 12288, 96, 12288, false},
    NamedShape{"opt-iml-1.3b", 24, 2048, 32, 2048, false},
    NamedShape{"opt-iml-30b", 48, 7168, 56, 7168, false},
    NamedShape{"galactica-125m", 12, 768, 12, 768, true},
    NamedShape{"galactica-1.3b", 24, 2048, 32, 2048, true},
    NamedShape{"galactica-6.7b", 32, 4096, 32, 4096, true},
    NamedShape{"galactica-30b", 48, 7168, 56, 7168, true},
    NamedShape{"galactica-120b", 96, 10240, 80, 10240, true},
};

// "opt-125m, opt-350m, ..."
inline std::string named_shapes_list() {
  std::string out;
  for (const NamedShape& s : kNamedShapes) out += (out.empty() ? "" : ", ") + std::string(s.name);
  return out;
}

inline std::optional<ModelDescription> try_named_shape(std::string_view name) {
  for (const NamedShape& s : kNamedShapes) {
    if (s.name != name) continue;
    ModelDescription m;
    m.n_layers = s.n_layers;
    m.width = s.width;
    m.ffn = 4 * s.width;
    m.n_heads = m.n_kv_heads = s.n_heads;
    m.head_dim = s.width / s.n_heads;
    m.vocab = s.galactica ? 50'000 : 50'272;
    m.embed_width = s.embed_width;
    m.max_positions = 2048;
    m.position_offset = 2;
    m.activation = s.galactica ? Activation::gelu_erf : Activation::relu;
    if (m.has_projection()) m.norm = NormPlace::post, m.final_norm = false;
    return m;
  }
  return std::nullopt;
}

}  // namespace flexgen
