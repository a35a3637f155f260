// SPDX-License-Identifier: Apache-2.0
// A folder's tokenizer files on their way into a model file: they are read as a tokenizer first, so that a bad one is found when the
// model is made, not when it is used.
#pragma once

#include <map>
#include <string>

#include "flexgen/format/tokenizer_files.h"
#include "flexgen/text/tokenizer.h"

namespace flexgen {

// Name -> text; empty where the folder has no vocabulary, which is a model without text. throws Fault::checkpoint, Fault::io
inline std::map<std::string, std::string> checked_tokenizer_files(const std::string& folder) {
  auto files = read_tokenizer_files(folder);
  if (!files.contains("tokenizer.json") && !files.contains("vocab.json") && !files.contains("merges.txt")) return {};
  Tokenizer::from_files(files, folder);
  return files;
}

}  // namespace flexgen
