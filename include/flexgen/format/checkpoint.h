// SPDX-License-Identifier: Apache-2.0
// A checkpoint folder as HuggingFace lays it out: one file or several shards with an index. Opening it reads headers only, so it takes
// milliseconds and little memory whatever the model's size; tensors are read through format/row_reader.h or straight from their
// place (StoredTensor::contiguous).
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/json.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/format/safetensors.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/format/torch.h"
#include "flexgen/io/direct_reader.h"
#include "flexgen/io/file.h"

namespace flexgen {

class Checkpoint {
 public:
  // Looks, in this order (as transformers' modeling_utils.py does), for model.safetensors, model.safetensors.index.json,
  // pytorch_model.bin, pytorch_model.bin.index.json. throws Fault::checkpoint, Fault::io
  static Checkpoint open(const std::string& folder) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (!fs::exists(folder, ignored)) fail(Fault::io, "{}: the folder does not exist or may not be read", folder);
    if (!fs::is_directory(folder, ignored))
      fail(Fault::checkpoint, "{}: found a file, allowed a folder with config.json and weights. Give the folder that holds it", folder);
    Checkpoint c;
    for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
      const std::string path = folder + "/" + name;
      if (fs::exists(fs::symlink_status(path, ignored))) {
        c.add(path);
        c.index();
        return c;
      }
      if (fs::exists(fs::symlink_status(path + ".index.json", ignored))) {
        c.add_shards(folder, path + ".index.json");
        return c;
      }
    }
    std::string others;
    for (const char* name : {"tf_model.h5", "flax_model.msgpack", "model.onnx", "consolidated.00.pth"})
      if (fs::exists(folder + "/" + name, ignored)) others += fmt::format("{}{}", others.empty() ? ". Found only " : ", ", name);
    fail(Fault::checkpoint,
         "{}: weights: found none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json{}", folder,
         others);
  }

  // One file, by its name's end: .safetensors, or else PyTorch
  static Checkpoint open_file(const std::string& path) {
    Checkpoint c;
    c.add(path);
    c.index();
    return c;
  }

  // sorted by name, names unique
  std::span<const StoredTensor> tensors() const { return tensors_; }
  // null where there is none of that name; require_readable says whether one that is there can be read
  const StoredTensor* find(std::string_view name) const {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name, [](const StoredTensor& t, std::string_view n) { return t.name < n; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  size_t n_files() const { return files_.size(); }
  const File& file(size_t i) const { return files_[i]; }
  // reads file i past the page cache; must not outlive this
  DirectReader direct_reader(size_t i) const { return DirectReader(files_[i]); }
  // the file that holds t, for messages
  const std::string& path(const StoredTensor& t) const { return files_[t.file].path(); }

 private:
  void add(const std::string& path) {
    files_.push_back(File::open(path));
    auto more = (path.ends_with(".safetensors") ? read_safetensors : read_torch)(files_.back(), files_.size() - 1);
    tensors_.insert(tensors_.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }

  void index() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return a.name != b.name ? a.name < b.name : a.file < b.file; });
    for (size_t i = 1; i < tensors_.size(); ++i)
      if (tensors_[i].name == tensors_[i - 1].name)
        fail(Fault::checkpoint, "{}: {} is also in {}; refusing an ambiguous checkpoint", path(tensors_[i]), quoted(tensors_[i]),
             path(tensors_[i - 1]));
  }

  // {"metadata": {...}, "weight_map": {"tensor": "file name", ...}}
  void add_shards(const std::string& folder, const std::string& index_path) {
    const nlohmann::json root = parse_json(read_text_file(index_path), index_path);
    const JsonFields fields(root, index_path);
    const auto* map = fields.find("weight_map");
    if (!map || !map->is_object() || map->empty())
      fail(Fault::checkpoint, "{}: weight_map: found {}, allowed an object with a file name for each tensor", index_path,
           !map           ? "nothing"
           : map->empty() ? "no tensors"
                          : describe(*map));
    std::map<std::string, size_t> shards;  // name -> tensors that it is to hold
    for (const auto& [tensor, shard] : map->items()) {
      const bool text = shard.is_string();
      const std::string name = text ? shard.get<std::string>() : "";
      // A plain name cannot leave the folder. Links are followed: the hub's cache is made of them.
      if (!text || name.empty() || name == "." || name == ".." || name.size() > 255 || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos)
        fail(Fault::checkpoint, "{}: tensor '{}': shard: found {}, allowed a plain file name in the same folder", index_path, printable(tensor),
             describe(shard));
      ++shards[name];
    }
    if (shards.size() > kMaxShards) fail(Fault::checkpoint, "{}: found {} shards, allowed {}", index_path, shards.size(), kMaxShards);
    std::map<std::string, size_t> file_of;
    for (const auto& [name, n_tensors] : shards) {
      std::error_code ignored;
      const std::string path = folder + "/" + name;
      if (!std::filesystem::exists(path, ignored))
        fail(Fault::checkpoint, "{}: shard '{}' is missing (named by {} tensors). Download it into the same folder", index_path, printable(name),
             n_tensors);
      file_of[name] = files_.size();
      add(path);
    }
    index();
    for (const auto& [tensor, shard] : map->items()) {
      const std::string name = shard.get<std::string>();
      const StoredTensor* t = find(tensor);
      if (!t || t->file != file_of[name])
        fail(Fault::checkpoint, "{}: tensor '{}' is not in shard '{}'{}. The index and the shards are of different checkpoints, or one is damaged",
             index_path, printable(tensor), printable(name), t ? fmt::format(" but in {}", path(*t)) : "");
    }
  }

  static constexpr size_t kMaxShards = 1000;  // open at once; below the usual limit of 1024 open files

  std::vector<File> files_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace flexgen
