// SPDX-License-Identifier: Apache-2.0
// flexgen-bench tokenize: text to ids and back on one core, beside what splitting the text alone takes: merging comes on top of that, so
// it bounds encoding.
#include <fmt/core.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/command.h"
#include "bench/harness.h"
#include "flexgen/format/tokenizer_files.h"
#include "flexgen/io/file.h"
#include "flexgen/text/pretokenize.h"
#include "flexgen/text/tokenizer.h"

namespace flexgen::bench {
namespace {

struct TokenizeOptions {
  std::string model;
  std::vector<std::string> texts;
};

int measure_tokenize(const TokenizeOptions& o) {
  const auto files = read_tokenizer_files(o.model);
  const Timing load = measure([&](int) { (void)Tokenizer::from_files(files, o.model); });
  fmt::print("load             {:8.1f} ms  (median of {}; {:.1f} to {:.1f})\n", load.median * 1e3, load.repetitions, load.min * 1e3, load.max * 1e3);
  const Tokenizer tokenizer = Tokenizer::from_files(files, o.model);
  const Gpt2Split split;
  for (const std::string& path : o.texts) {
    const std::string text = replace_invalid_utf8(read_text_file(path));
    if (text.empty()) fail(Fault::usage, "{}: found no text, allowed some", path);
    std::vector<int32_t> ids;
    size_t n_pieces = 0, n_decoded = 0;
    const double mb = static_cast<double>(text.size()) / 1e6;
    const Timing alone = measure([&](int) { split(text, [&](std::string_view) { ++n_pieces; }); });
    const Timing encode = measure([&](int) { ids = tokenizer.encode_bare(text); });
    const Timing decode = measure([&](int) { n_decoded = tokenizer.decode(ids, false).size(); });
    if (n_decoded != text.size()) fail(Fault::internal, "{}: {} bytes became {} after encoding and decoding", path, text.size(), n_decoded);
    fmt::print("{}: {:.2f} MB, {} pieces, {} tokens\n", path, mb, n_pieces / static_cast<size_t>(alone.repetitions + 1), ids.size());
    const auto line = [&](const char* what, const Timing& t) {
      fmt::print("  {:<14} {:8.1f} MB/s  (median of {}; {:.1f} to {:.1f})   {:.2f} of splitting alone\n", what, mb / t.median, t.repetitions,
                 mb / t.max, mb / t.min, alone.median / t.median);
    };
    line("split", alone);
    line("encode", encode);
    line("decode", decode);
  }
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<TokenizeOptions>();
  CLI::App* c = program.add_subcommand("tokenize", "Tokenizer on one core: load, encode, decode");
  c->add_option("--model", o->model, "Folder with a tokenizer's files")->required()->type_name("FOLDER");
  c->add_option("--text", o->texts, "Text to encode; repeatable")->required()->type_name("FILE");
  c->callback([o, &selected] { selected = [o] { return measure_tokenize(*o); }; });
}

}  // namespace flexgen::bench
