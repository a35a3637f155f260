// SPDX-License-Identifier: Apache-2.0
// flexgen tokenize: lines of standard input to JSON arrays of token ids on standard output, and back. One line at a time, each written out
// before the next is read, so that it can stand in a pipe.
#include <fmt/format.h>
#include <stdio.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/json.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/format/model_file.h"
#include "flexgen/format/tokenizer_files.h"
#include "flexgen/text/tokenizer.h"
#include "tools/command.h"
#include "tools/standard_output.h"

namespace flexgen::tools {
namespace {

struct TokenizeOptions {
  std::string model;
  bool jsonl = false;
  bool decode = false;
  bool parse_special = false;
  bool skip_special = false;
};

Tokenizer open_tokenizer(const std::string& path) {
  std::error_code unreadable;  // then opening it as a file says what is wrong
  if (std::filesystem::is_directory(path, unreadable)) return Tokenizer::from_files(read_tokenizer_files(path), path);
  const ModelFile model = ModelFile::open(path);
  const auto files = model.description().find("tokenizer");
  if (files == model.description().end() || files->empty())
    fail(Fault::checkpoint, "{}: holds no tokenizer. Convert the model again from a folder with its tokenizer's files", path);
  return Tokenizer::from_files(files->get<std::map<std::string, std::string>>(), path);
}

// Lines of a stream without their '\n'; any other byte, '\r' and 0 included, is the line's.
class Lines {
 public:
  explicit Lines(FILE* stream) : stream_(stream) {}
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  ~Lines() { std::free(line_); }

  // Valid until the next call; nullopt at the end. A last line without '\n' counts, an empty one does not.
  std::optional<std::string_view> next() {
    errno = 0;
    const ssize_t n = ::getline(&line_, &capacity_, stream_);
    if (n < 0) {
      if (errno == ENOMEM) throw std::bad_alloc();
      if (std::ferror(stream_)) fail(Fault::io, "standard input: cannot be read: {}", std::strerror(errno));
      return std::nullopt;
    }
    std::string_view line(line_, static_cast<size_t>(n));
    if (line.ends_with('\n')) line.remove_suffix(1);
    return line;
  }

 private:
  FILE* stream_;
  char* line_ = nullptr;
  size_t capacity_ = 0;
};

std::string encode_line(const Tokenizer& tokenizer, const TokenizeOptions& o, std::string_view line, const std::string& place) {
  std::string text;
  if (o.jsonl) {
    JsonLimits limits;
    limits.fault = Fault::usage;
    text = JsonFields(parse_json(line, place, limits), place, Fault::usage).text("text");
    line = text;
  }
  if (line.size() > Tokenizer::kMaxTextBytes)
    fail(Fault::usage, "{}: found {} bytes, allowed {}. Give it in parts", place, with_commas(line.size()), with_commas(Tokenizer::kMaxTextBytes));
  return fmt::format("[{}]", fmt::join(tokenizer.encode(line, o.parse_special), ","));
}

std::string decode_line(const Tokenizer& tokenizer, const TokenizeOptions& o, std::string_view line, const std::string& place) {
  constexpr int64_t kMaxId = INT32_MAX;
  JsonLimits limits;
  limits.fault = Fault::usage;
  const nlohmann::json list = parse_json(line, place, limits);
  if (!list.is_array()) fail(Fault::usage, "{}: found {}, allowed a list of token ids", place, describe(list));
  std::vector<int32_t> ids;
  for (const auto& id : list) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() <= uint64_t{kMaxId};
    if (!fits) fail(Fault::usage, "{}: token id {}: found {}, allowed a whole number from 0 to {}", place, ids.size(), describe(id), kMaxId);
    ids.push_back(id.get<int32_t>());
  }
  return nlohmann::json(tokenizer.decode(ids, o.skip_special)).dump();
}

int tokenize(const TokenizeOptions& o) {
  const Tokenizer tokenizer = open_tokenizer(o.model);
  Lines lines(stdin);
  StandardOutput out;
  for (size_t number = 1; !out.closed(); ++number) {
    const auto line = lines.next();
    if (!line) break;
    const std::string place = fmt::format("standard input: line {}", number);
    out.write((o.decode ? decode_line(tokenizer, o, *line, place) : encode_line(tokenizer, o, *line, place)) + "\n");
    out.flush();
  }
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& program, Selected& selected) {
  CLI::App* command = program.add_subcommand("tokenize", "Turn lines of standard input into token ids, or back");
  auto options = std::make_shared<TokenizeOptions>();
  command->add_option("--model", options->model, "Model file, or folder with a tokenizer's files (the model's weights are not needed)")
      ->required()
      ->type_name("PATH");
  auto* jsonl = command->add_flag("--jsonl", options->jsonl,
                                  "Lines are JSON objects; take their \"text\". Without it a line is text; bytes that are not UTF-8 count as U+FFFD");
  auto* decode = command->add_flag("--decode", options->decode, "Lines are JSON arrays of token ids; print their text as one JSON string a line");
  auto* parse =
      command->add_flag("--parse-special", options->parse_special, "Control tokens such as </s> that are spelled out in the text become that token");
  auto* skip = command->add_flag("--skip-special", options->skip_special, "With --decode: leave control tokens out of the text");
  jsonl->excludes(decode);
  parse->excludes(decode);
  skip->needs(decode);
  command->callback([options, &selected] { selected = [options] { return tokenize(*options); }; });
}

}  // namespace flexgen::tools
