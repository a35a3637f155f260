// SPDX-License-Identifier: Apache-2.0
#include "flexgen/model/opt_config.h"

#include "flexgen/format/json.h"
#include "flexgen/io/file.h"
#include "support/errors.h"

using namespace flexgen;

namespace {

ModelDescription read(const std::string& text) { return opt_description(parse_json(text, "config.json"), "config.json"); }
// the smallest config there is, and these members
ModelDescription with(const std::string& members) {
  return read(fmt::format(R"({{"model_type": "opt"{}{}}})", members.empty() ? "" : ", ", members));
}

}  // namespace

TEST_CASE("transformers' defaults", "[model]") {
  for (const char* members : {"", R"("hidden_size": null, "word_embed_proj_dim": null, "enable_bias": null, "quantization_config": null)"}) {
    const ModelDescription m = with(members);
    CHECK(m.family == "opt");
    CHECK(m.n_layers == 12);
    CHECK(m.width == 768);
    CHECK(m.ffn == 3072);
    CHECK(m.n_heads == 12);
    CHECK(m.n_kv_heads == 12);
    CHECK(m.head_dim == 64);
    CHECK(m.vocab == 50272);
    CHECK(m.embed_width == 768);
    CHECK_FALSE(m.has_projection());
    CHECK(m.max_positions == 2048);
    CHECK(m.position_offset == 2);
    CHECK(m.activation == Activation::relu);
    CHECK(m.norm == NormPlace::pre);
    CHECK(m.norm_eps == 1e-5f);
    CHECK(m.final_norm);
    CHECK(m.bias);
    CHECK(m.norm_affine);
    CHECK(m.tied_head);
  }
}

TEST_CASE("what the config says is obeyed", "[model]") {
  const ModelDescription m =
      with(R"("hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16, "word_embed_proj_dim": 512,
    "vocab_size": 50000, "max_position_embeddings": 1024, "do_layer_norm_before": false, "activation_function": "gelu", "enable_bias": false,
    "layer_norm_elementwise_affine": false, "tie_word_embeddings": false, "dropout": 0.1, "prefix": "</s>", "unknown": [1])");
  CHECK(m.width == 1024);
  CHECK(m.n_layers == 24);
  CHECK(m.ffn == 4096);
  CHECK(m.n_heads == 16);
  CHECK(m.head_dim == 64);
  CHECK(m.embed_width == 512);
  CHECK(m.has_projection());
  CHECK(m.vocab == 50000);
  CHECK(m.max_positions == 1024);
  CHECK(m.norm == NormPlace::post);
  CHECK_FALSE(m.final_norm);  // post-norm has none
  CHECK(m.activation == Activation::gelu_erf);
  CHECK_FALSE(m.bias);
  CHECK_FALSE(m.norm_affine);
  CHECK_FALSE(m.tied_head);

  CHECK(with(R"("d_model": 1536)").width == 1536);  // the name that the first configs had
  CHECK(with(R"("d_model": 768, "hidden_size": 768)").width == 768);
  CHECK_FALSE(with(R"("_remove_final_layer_norm": true)").final_norm);
  CHECK(with(R"("_remove_final_layer_norm": false)").final_norm);
  CHECK(with(R"("activation_function": "gelu_new")").activation == Activation::gelu_tanh);
  CHECK(with(R"("activation_function": "gelu_pytorch_tanh")").activation == Activation::gelu_tanh);
  CHECK(with(R"("activation_function": "relu")").activation == Activation::relu);
}

TEST_CASE("published shapes", "[model]") {
  // model_type, hidden_size, layers, heads and what follows from them; OPT-175B and Galactica 120B
  const ModelDescription opt = with(R"("hidden_size": 12288, "num_hidden_layers": 96, "ffn_dim": 49152, "num_attention_heads": 96)");
  CHECK(opt.head_dim == 128);
  const ModelDescription galactica = with(
      R"("hidden_size": 10240, "num_hidden_layers": 96, "ffn_dim": 40960, "num_attention_heads": 80, "vocab_size": 50000,
              "activation_function": "gelu")");
  CHECK(galactica.head_dim == 128);
  CHECK(with(R"("hidden_size": 2560, "num_hidden_layers": 32, "ffn_dim": 10240, "num_attention_heads": 32)").head_dim == 80);
}

TEST_CASE("configs that cannot be obeyed are refused", "[model]") {
  struct Case {
    std::string text, message;
  };
  const auto opt = [](const std::string& members) { return fmt::format(R"({{"model_type": "opt", {}}})", members); };
  const Case cases[] = {
      {"[]", "config.json: found a list, allowed an object"},
      {"{}", "config.json: model_type: found nothing, allowed 'opt'. Other families cannot be read"},
      {R"({"model_type": "llama"})", "config.json: model_type: found 'llama', allowed 'opt'"},
      {R"({"model_type": "\u001b[31m"})", "config.json: model_type: found '\\x1b[31m', allowed 'opt'"},
      {R"({"model_type": 7})", "config.json: model_type: found 7, allowed a string"},
      {opt(R"("quantization_config": {"quant_method": "gptq", "bits": 4})"), "config.json: quantization_config: found \"gptq\", allowed none"},
      {opt(R"("quantization_config": 4)"), "config.json: quantization_config: found 4, allowed none"},
      {opt(R"("hidden_size": 0)"), "config.json: hidden_size: found 0, allowed a whole number from 1 to 1048576"},
      {opt(R"("hidden_size": -768)"), "config.json: hidden_size: found -768, allowed a whole number from 1"},
      {opt(R"("hidden_size": 768.0)"), "config.json: hidden_size: found 768.0, allowed a whole number"},
      {opt(R"("hidden_size": "768")"), "config.json: hidden_size: found \"768\", allowed a whole number"},
      {opt(R"("hidden_size": 18446744073709551615)"), "config.json: hidden_size: found 18446744073709551615, allowed a whole number"},
      {opt(R"("hidden_size": 768, "d_model": 1024)"), "config.json: hidden_size: found 768, but d_model, its older name, is 1024"},
      {opt(R"("num_hidden_layers": 0)"), "config.json: num_hidden_layers: found 0, allowed a whole number from 1 to 10000"},
      {opt(R"("num_hidden_layers": 1000000000)"), "config.json: num_hidden_layers: found 1000000000, allowed a whole number from 1 to 10000"},
      {opt(R"("num_attention_heads": 7)"), "config.json: num_attention_heads: found 7, allowed a divisor of hidden_size 768"},
      {opt(R"("num_attention_heads": 769)"), "config.json: num_attention_heads: found 769, allowed a whole number from 1 to 768"},
      {opt(R"("num_key_value_heads": 4)"), "config.json: num_key_value_heads: found 4, allowed 12: OPT has as many as num_attention_heads"},
      {opt(R"("ffn_dim": 0)"), "config.json: ffn_dim: found 0, allowed a whole number from 1"},
      {opt(R"("vocab_size": 16777217)"), "config.json: vocab_size: found 16777217, allowed a whole number from 1 to 16777216"},
      {opt(R"("word_embed_proj_dim": 0)"), "config.json: word_embed_proj_dim: found 0, allowed a whole number from 1"},
      {opt(R"("max_position_embeddings": 0)"), "config.json: max_position_embeddings: found 0, allowed a whole number from 1"},
      {opt(R"("activation_function": "swish")"),
       "config.json: activation_function: found 'swish', allowed relu, gelu, gelu_python, gelu_new, gelu_fast, gelu_accurate, gelu_pytorch_tanh"},
      {opt(R"("activation_function": null, "do_layer_norm_before": 1)"), "config.json: do_layer_norm_before: found 1, allowed true or false"},
      {opt(R"("_remove_final_layer_norm": "no")"), "config.json: _remove_final_layer_norm: found \"no\", allowed true or false"},
      {opt(R"("enable_bias": 0)"), "config.json: enable_bias: found 0, allowed true or false"},
      {opt(R"("layer_norm_elementwise_affine": [])"), "config.json: layer_norm_elementwise_affine: found a list, allowed true or false"},
      {opt(R"("tie_word_embeddings": {})"), "config.json: tie_word_embeddings: found an object, allowed true or false"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(read(c.text), Fault::checkpoint, c.message);
  }
}
