// SPDX-License-Identifier: Apache-2.0
// The files of a folder that make up its tokenizer, as text: what Tokenizer::from_files takes and what a model file carries.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>

#include "flexgen/base/bytes.h"
#include "flexgen/io/file.h"

namespace flexgen {

inline constexpr std::array kTokenizerFiles{"tokenizer.json",          "vocab.json",        "merges.txt",
                                            "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};

// Name -> text of those that are there; perhaps none. throws Fault::checkpoint for one of more than 64 MiB, Fault::io
inline std::map<std::string, std::string> read_tokenizer_files(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const char* name : kTokenizerFiles) {
    const std::string path = folder + "/" + name;
    std::error_code unreadable;  // then opening says what is wrong
    const auto status = std::filesystem::status(path, unreadable);
    if (status.type() != std::filesystem::file_type::not_found) files.emplace(name, read_text_file(path, 64_MiB));
  }
  return files;
}

}  // namespace flexgen
