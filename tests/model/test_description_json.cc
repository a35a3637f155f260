// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/description_json.h"

#include "flexgen/model/named_shapes.h"
#include "support/errors.h"
#include "support/small_model.h"
#include "support/temp_dir.h"

using namespace flexgen;

namespace {

// opt-125m's description with one change
nlohmann::json changed(const char* key, nlohmann::json value) {
  nlohmann::json j = to_json(*try_named_shape("opt-125m"));
  j[key] = std::move(value);
  return j;
}

ModelDescription tiny_description() {
  ModelDescription m;
  m.n_layers = 1, m.width = 8, m.ffn = 16, m.n_heads = m.n_kv_heads = 2, m.head_dim = 4, m.vocab = 10, m.embed_width = 8, m.max_positions = 6,
  m.position_offset = 2;
  return m;
}

std::vector<PlannedRecord> planned(const ModelDescription& m) {
  std::vector<PlannedRecord> out;
  for (const RecordSpec& r : records(m)) {
    out.push_back({r.name, {}});
    for (const TensorSpec& t : r.tensors) out.back().tensors.push_back({t.name, DType::f32, t.shape});
  }
  return out;
}

}  // namespace

TEST_CASE("a description survives JSON", "[model]") {
  ModelDescription m = *try_named_shape("opt-350m");
  m.activation = Activation::gelu_tanh;
  m.norm_eps = 1e-6f;
  m.bias = false, m.norm_affine = false, m.tied_head = false;
  const nlohmann::json text = nlohmann::json::parse(to_json(m).dump());
  const ModelDescription back = description_from_json(text, "m");
  CHECK(to_json(back) == to_json(m));
  CHECK(back.n_layers == 24);
  CHECK(back.embed_width == 512);
  CHECK(back.norm == NormPlace::post);
  CHECK(back.activation == Activation::gelu_tanh);
  CHECK(back.norm_eps == 1e-6f);
  CHECK_FALSE(back.final_norm);
  CHECK_FALSE(back.bias);
  CHECK_FALSE(back.norm_affine);
  CHECK_FALSE(back.tied_head);
}

TEST_CASE("a description that cannot be is refused", "[model]") {
  const auto refuse = [](const nlohmann::json& j, const char* message) {
    CHECK_FAULT(description_from_json(j, "m.flex: model"), Fault::checkpoint, message);
  };
  refuse(changed("family", "bloom"), "m.flex: model: family: found 'bloom', allowed opt");
  refuse(changed("n_layers", 0), "m.flex: model: n_layers: found 0, allowed a whole number from 1 to 100000");
  refuse(changed("n_layers", 1.5), "n_layers: found 1.5");
  refuse(changed("vocab", nullptr), "m.flex: model: vocab is missing");
  refuse(changed("activation", "swish"), "m.flex: model: activation: found 'swish', allowed none, relu, gelu_erf, gelu_tanh");
  refuse(changed("norm", "sandwich"), "norm: found 'sandwich', allowed pre, post");
  refuse(changed("norm_eps", -1), "norm_eps: found -1");
  refuse(changed("tied_head", 1), "tied_head: found 1, allowed true or false");
  refuse(changed("rotary", true), "m.flex: model: 'rotary' is not known to this version");
  refuse(changed("n_kv_heads", 5), "n_kv_heads: found 5, allowed a divisor of n_heads (12)");
  refuse(changed("head_dim", 65), "12 heads of 65 make 780, the width is 768");
  refuse(nlohmann::json::array(), "m.flex: model: found a list, allowed an object");
}

TEST_CASE("a file must hold exactly what its description asks for", "[model]") {
  const testing::TempDir dir;
  const std::string path = dir / "m.flex";
  const ModelDescription m = tiny_description();
  const auto write = [&](const ModelDescription& described, std::vector<PlannedRecord> stored) {
    testing::write_small_model(path, nlohmann::json{{"model", to_json(described)}}.dump(), 4096, std::move(stored));
    return ModelFile::open(path);
  };
  CHECK(to_json(stored_description(write(m, planned(m)))) == to_json(m));

  ModelDescription other = m;
  other.vocab = 11;
  CHECK_FAULT(stored_description(write(other, planned(m))), Fault::checkpoint,
              "m.flex: tensor 'embed.tokens': found [10, 8], the model description asks for [11, 8]");
  other = m;
  other.n_layers = 2;
  CHECK_FAULT(stored_description(write(other, planned(m))), Fault::checkpoint, "m.flex: records: found 4, the model description asks for 6");
  other.n_layers = 50'000;
  CHECK_FAULT(stored_description(write(other, planned(m))), Fault::checkpoint, "records: found 4, the model description asks for 50000 layers of 2");
  other = m;
  other.bias = false;
  CHECK_FAULT(stored_description(write(other, planned(m))), Fault::checkpoint,
              "record 'layers.0.attn': found 6 tensors, the model description asks for 4");
  auto swapped = planned(m);
  std::swap(swapped[1], swapped[2]);
  CHECK_FAULT(stored_description(write(m, swapped)), Fault::checkpoint,
              "record 1: found 'layers.0.mlp', the model description asks for 'layers.0.attn'");
  swapped = planned(m);
  std::swap(swapped[1].tensors[0], swapped[1].tensors[1]);
  CHECK_FAULT(stored_description(write(m, swapped)), Fault::checkpoint,
              "tensor 0 of record 'layers.0.attn': found 'layers.0.attn.norm.bias', the model description asks for 'layers.0.attn.norm.weight'");
}
