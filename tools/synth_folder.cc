// SPDX-License-Identifier: Apache-2.0
#include "tools/synth_folder.h"

#include <filesystem>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>

#include "flexgen/format/crc32.h"
#include "flexgen/format/crc32_combine.h"
#include "flexgen/model/records.h"
#include "flexgen/model/synthetic.h"
#include "tools/torch_pickle.h"

namespace flexgen::tools {

namespace {

using nlohmann::json;

// A tensor under HuggingFace's name: some rows of one of ours
struct FolderTensor {
  std::string name;    // model.decoder.layers.0.self_attn.q_proj.weight
  std::string source;  // layers.0.attn.qkv.weight
  uint64_t first = 0;  // element of the source
  Shape shape;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // in its shard
};

struct Shard {
  std::vector<FolderTensor> tensors;
  uint64_t bytes = 0;  // of weights
};

constexpr uint64_t kShardBytes = 10'000'000'000;  // transformers' max_shard_size "10GB"

// our name -> the names of its thirds (q, k, v) or of the whole
std::vector<std::string> folder_names(const std::string& ours) {
  const std::string decoder = "model.decoder.";
  if (ours == "embed.tokens") return {decoder + "embed_tokens.weight"};
  if (ours == "embed.positions") return {decoder + "embed_positions.weight"};
  if (ours == "embed.project_in") return {decoder + "project_in.weight"};
  if (ours == "head.project_out") return {decoder + "project_out.weight"};
  if (ours == "head.logits") return {"lm_head.weight"};
  const size_t kind_at = ours.rfind('.'), part_at = ours.rfind('.', kind_at - 1) + 1;
  const std::string part = ours.substr(part_at, kind_at - part_at), kind = ours.substr(kind_at);
  if (ours.starts_with("head.")) return {decoder + "final_layer_norm" + kind};
  const bool attention = ours.find(".attn.") != std::string::npos;
  const std::string layer = decoder + ours.substr(0, ours.find('.', 7)) + ".";
  if (part == "norm") return {layer + (attention ? "self_attn_layer_norm" : "final_layer_norm") + kind};
  if (part == "qkv") return {layer + "self_attn.q_proj" + kind, layer + "self_attn.k_proj" + kind, layer + "self_attn.v_proj" + kind};
  if (part == "out") return {layer + "self_attn.out_proj" + kind};
  return {layer + part + kind};
}

std::vector<Shard> cut_into_shards(const ModelDescription& model, DType dtype) {
  std::vector<Shard> shards(1);
  for (const RecordSpec& r : records(model))
    for (const TensorSpec& t : r.tensors) {
      const auto names = folder_names(t.name);
      Shape shape = t.shape;
      shape[0] /= static_cast<int64_t>(names.size());  // OPT has as many KV heads as query heads
      uint64_t n = 1;
      for (const int64_t d : shape) n *= static_cast<uint64_t>(d);
      for (size_t i = 0; i < names.size(); ++i) {
        const uint64_t bytes = n * size_of(dtype);
        if (!shards.back().tensors.empty() && shards.back().bytes + bytes > kShardBytes) shards.emplace_back();
        shards.back().tensors.push_back({names[i], t.name, i * n, shape, bytes, 0});
        shards.back().bytes += bytes;
      }
    }
  return shards;
}

json config_json(const ModelDescription& m, DType dtype) {
  const char* torch_dtype = dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
  json c{{"_remove_final_layer_norm", m.norm == NormPlace::pre && !m.final_norm},
         {"activation_function", m.activation == Activation::relu ? "relu" : m.activation == Activation::gelu_erf ? "gelu" : "gelu_new"},
         {"architectures", {"OPTForCausalLM"}},
         {"bos_token_id", 2},
         {"do_layer_norm_before", m.norm == NormPlace::pre},
         {"enable_bias", m.bias},
         {"eos_token_id", 2},
         {"ffn_dim", m.ffn},
         {"hidden_size", m.width},
         {"layer_norm_elementwise_affine", m.norm_affine},
         {"max_position_embeddings", m.max_positions},
         {"model_type", "opt"},
         {"num_attention_heads", m.n_heads},
         {"num_hidden_layers", m.n_layers},
         {"pad_token_id", 1},
         {"tie_word_embeddings", m.tied_head},
         {"torch_dtype", torch_dtype},
         {"vocab_size", m.vocab},
         {"word_embed_proj_dim", m.embed_width}};
  return c;
}

void write_text(const std::string& path, const std::string& text, bool overwrite) {
  OutputFile output(path, text.size(), overwrite);
  const Buffer padded(round_up<size_t>(text.size(), kIoAlign));
  std::copy(text.begin(), text.end(), reinterpret_cast<char*>(padded.data()));
  output.file().write(0, padded.bytes());
  if (::ftruncate(output.file().fd(), static_cast<off_t>(text.size())) != 0)
    fail(Fault::io, "{}: cannot be cut to its length: {}", path, std::strerror(errno));
  output.commit();
}

// Literal bytes between the weights: headers and directories
struct Literal {
  uint64_t offset;
  std::string bytes;
};

// Writes the weights of a shard at their offsets, in chunks that O_DIRECT takes, on several threads; then the literals, which after_weights
// makes from the weights' checksums (needed where the format has them: with_crc).
void write_shard(const std::string& path, const Shard& shard, uint64_t file_bytes, const SyntheticWeights& weights, DType dtype, bool with_crc,
                 const std::function<std::vector<Literal>(std::span<const uint32_t> crcs)>& after_weights, const WriteOptions& options) {
  constexpr uint64_t kChunk = 4_MiB;
  struct Piece {
    size_t tensor;
    uint64_t offset, bytes;
    uint32_t crc;
  };
  OutputFile output(path, round_up<uint64_t>(file_bytes, kIoAlign), options.overwrite);
  std::vector<Piece> pieces;
  std::mutex mutex;
  ThreadPool pool(options.workers);
  std::vector<Buffer> buffers;
  for (int i = 0; i < pool.size(); ++i) buffers.emplace_back(kChunk);
  pool.parallel_for(static_cast<int64_t>(div_up(file_bytes, kChunk)), [&](int64_t i, int worker) {
    if (options.stop && options.stop->load(std::memory_order_relaxed)) fail(Fault::interrupted, "{}: interrupted; nothing was written", path);
    const uint64_t start = static_cast<uint64_t>(i) * kChunk, end = std::min(start + kChunk, round_up<uint64_t>(file_bytes, kIoAlign));
    const auto bytes = buffers[static_cast<size_t>(worker)].bytes().first(end - start);
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    auto t = std::upper_bound(shard.tensors.begin(), shard.tensors.end(), start,
                              [](uint64_t at, const FolderTensor& x) { return at < x.offset + x.bytes; });
    for (; t != shard.tensors.end() && t->offset < end; ++t) {
      const uint64_t from = std::max(start, t->offset), to = std::min(end, t->offset + t->bytes);
      const auto part = bytes.subspan(from - start, to - from);
      weights.fill(t->source, t->first + (from - t->offset) / size_of(dtype), part);
      if (with_crc) {
        const uint32_t crc = crc32(part);
        std::lock_guard lock(mutex);
        pieces.push_back({static_cast<size_t>(t - shard.tensors.begin()), from, to - from, crc});
      }
      if (options.done_bytes) options.done_bytes->fetch_add(to - from, std::memory_order_relaxed);
    }
    output.file().write(start, bytes);
  });
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
  std::vector<uint32_t> crcs(shard.tensors.size(), 0);
  for (const Piece& p : pieces) crcs[p.tensor] = crc32_combine(crcs[p.tensor], p.crc, p.bytes);

  File file = File::open(output.file().path());  // through the page cache: literals have any offset
  Fd writable(::open(output.file().path().c_str(), O_WRONLY | O_CLOEXEC));
  if (!writable) fail(Fault::io, "{}: cannot be written: {}", path, std::strerror(errno));
  const File literals(std::move(writable), output.file().path(), file_bytes);
  for (const Literal& l : after_weights(crcs)) literals.write(l.offset, std::as_bytes(std::span(l.bytes)));
  if (::ftruncate(literals.fd(), static_cast<off_t>(file_bytes)) != 0)
    fail(Fault::io, "{}: cannot be cut to its length: {}", path, std::strerror(errno));
  output.commit();
}

// Layout of safetensors: [u64 header bytes][JSON, spaces to a multiple of 8][data]
void write_safetensors(const std::string& path, Shard& shard, const SyntheticWeights& weights, DType dtype, const WriteOptions& options) {
  json header{{"__metadata__", {{"format", "pt"}}}};
  uint64_t at = 0;
  for (const FolderTensor& t : shard.tensors) {
    header[t.name] = {{"dtype", dtype == DType::f32   ? "F32"
                                : dtype == DType::f16 ? "F16"
                                                      : "BF16"},
                      {"shape", t.shape},
                      {"data_offsets", {at, at + t.bytes}}};
    at += t.bytes;
  }
  std::string text = header.dump();
  text.resize(round_up<size_t>(text.size(), 8), ' ');
  const uint64_t length = text.size();
  text.insert(0, reinterpret_cast<const char*>(&length), sizeof(length));
  uint64_t offset = text.size();
  for (FolderTensor& t : shard.tensors) t.offset = std::exchange(offset, offset + t.bytes);
  write_shard(path, shard, offset, weights, dtype, false, [&](std::span<const uint32_t>) { return std::vector<Literal>{{0, text}}; }, options);
}

// Layout of torch.save: a zip of stored entries, each storage at a multiple of 64
void write_torch(const std::string& path, const std::string& stem, Shard& shard, const SyntheticWeights& weights, DType dtype,
                 const WriteOptions& options) {
  ZipLayout zip;
  std::vector<PickledTensor> pickled;
  for (size_t i = 0; i < shard.tensors.size(); ++i) pickled.push_back({shard.tensors[i].name, shard.tensors[i].shape, std::to_string(i)});
  zip.add(stem + "/data.pkl", pickle_state_dict(pickled, dtype));
  for (size_t i = 0; i < shard.tensors.size(); ++i)
    shard.tensors[i].offset = zip.add_space(fmt::format("{}/data/{}", stem, i), shard.tensors[i].bytes);
  zip.add(stem + "/version", "3\n");
  const uint64_t file_bytes = zip.finish();
  write_shard(path, shard, file_bytes, weights, dtype, true,
              [&](std::span<const uint32_t> crcs) {
                std::vector<Literal> out;
                for (auto& [offset, bytes] : zip.literals(crcs)) out.push_back({offset, std::move(bytes)});
                return out;
              },
              options);
}

}  // namespace

uint64_t synthetic_folder_bytes(const ModelDescription& model, DType dtype) {
  uint64_t n = 0;
  for (const Shard& s : cut_into_shards(model, dtype)) n += s.bytes;
  return n;
}

void write_synthetic_folder(const std::string& folder, FolderFormat format, const ModelDescription& model, DType dtype, uint64_t seed,
                            const std::map<std::string, std::string>& tokenizer, const WriteOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(Fault::io, "{}: cannot be made: {}", folder, error.message());
  const bool torch = format == FolderFormat::torch;
  const std::string stem = torch ? "pytorch_model" : "model", end = torch ? ".bin" : ".safetensors";
  auto shards = cut_into_shards(model, dtype);
  const SyntheticWeights weights(model, dtype, seed);
  json map = json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string part = shards.size() == 1 ? stem : fmt::format("{}-{:05}-of-{:05}", stem, i + 1, shards.size());
    for (const FolderTensor& t : shards[i].tensors) map[t.name] = part + end;
    if (torch) write_torch(folder + "/" + part + end, part, shards[i], weights, dtype, options);
    else write_safetensors(folder + "/" + part + end, shards[i], weights, dtype, options);
  }
  if (shards.size() > 1)
    write_text(folder + "/" + stem + end + ".index.json",
               json{{"metadata", {{"total_size", synthetic_folder_bytes(model, dtype)}}}, {"weight_map", map}}.dump(2), options.overwrite);
  for (const auto& [name, text] : tokenizer) write_text(folder + "/" + name, text, options.overwrite);
  write_text(folder + "/config.json", config_json(model, dtype).dump(2), options.overwrite);
}

}  // namespace flexgen::tools
