// SPDX-License-Identifier: Apache-2.0
// A synthetic model as a HuggingFace folder: config.json, tokenizer, and weights as safetensors or PyTorch zip, cut into shards of at
// most 10 GB with an index as transformers does. For testing conversion at sizes that nobody wants to download.
#pragma once

#include <map>
#include <string>

#include "flexgen/format/model_writer.h"
#include "flexgen/model/description.h"

namespace flexgen::tools {

enum class FolderFormat { safetensors, torch };


// bytes of weights that write_synthetic_folder writes
uint64_t synthetic_folder_bytes(const ModelDescription& model, DType dtype);

// Makes the folder; a file that exists needs options.overwrite.
void write_synthetic_folder(const std::string& folder, FolderFormat format, const ModelDescription& model, DType dtype, uint64_t seed,
                            const std::map<std::string, std::string>& tokenizer, const WriteOptions& options);

}  // namespace flexgen::tools
