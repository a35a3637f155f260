// SPDX-License-Identifier: Apache-2.0
// flexgen convert: a HuggingFace folder to one model file.
#include <fmt/core.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "flexgen/model/conversion.h"
#include "flexgen/text/checked_tokenizer_files.h"
#include "tools/command.h"
#include "tools/dtype_option.h"
#include "tools/file_id.h"
#include "tools/interrupt.h"
#include "tools/progress.h"

namespace flexgen::tools {

namespace {

struct ConvertOptions {
  std::string source, output, dtype;
  bool overwrite = false, json = false;
};

// the folder's name with .flex, in the current folder
std::string default_output(const std::string& source) {
  std::error_code ignored;
  const std::string name = std::filesystem::weakly_canonical(source, ignored).filename().string();
  return (name.empty() ? "model" : name) + ".flex";
}

std::vector<std::string> warnings_of(const std::vector<SuspectTensor>& suspects, std::string_view dtype) {
  std::vector<std::string> out;
  for (const SuspectTensor& s : suspects) {
    if (s.not_finite != 0)
      out.push_back(fmt::format("tensor '{}': {} values are infinite or NaN in the checkpoint", s.name, with_commas(s.not_finite)));
    if (s.overflowed != 0)
      out.push_back(fmt::format("tensor '{}': {} values are too large for {} and became infinite. Use --dtype bf16 or f32", s.name,
                                with_commas(s.overflowed), dtype));
  }
  return out;
}

int convert(const ConvertOptions& o) {
  const std::string output = o.output.empty() ? default_output(o.source) : o.output;
  const auto dtype = parse_dtype(o.dtype);
  Conversion conversion(o.source, checked_tokenizer_files(o.source), dtype, "flexgen " FLEXGEN_VERSION);
  for (const std::string& note : conversion.notes()) fmt::print(stderr, "note: {}\n", note);

  catch_interrupts();
  std::atomic<uint64_t> done{0};
  const auto start = std::chrono::steady_clock::now();
  std::vector<SuspectTensor> suspects;
  {
    const Progress progress("convert", done, conversion.total_bytes());
    suspects = conversion.write(output, {.file_id = random_file_id(), .overwrite = o.overwrite, .stop = &interrupted, .done_bytes = &done});
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const auto warnings = warnings_of(suspects, o.dtype);
  for (const std::string& w : warnings) fmt::print(stderr, "warning: {}\n", w);
  const double rate = static_cast<double>(conversion.source_bytes()) / seconds;
  if (o.json) {
    fmt::print("{}\n", nlohmann::json{{"file", output},
                                      {"file_bytes", conversion.plan().file_bytes},
                                      {"weight_bytes", conversion.total_bytes()},
                                      {"source_bytes", conversion.source_bytes()},
                                      {"seconds", seconds},
                                      {"source_bytes_per_second", rate},
                                      {"notes", conversion.notes()},
                                      {"warnings", warnings}}
                           .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}: {} in {:.1f} s ({}/s)\n", output, format_bytes(conversion.plan().file_bytes), seconds, format_bytes(static_cast<uint64_t>(rate)));
  }
  return 0;
}

}  // namespace

void add_convert(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<ConvertOptions>();
  CLI::App* c = program.add_subcommand("convert", "Make a model file of a HuggingFace folder (safetensors or PyTorch .bin)");
  c->add_option("SRC", o->source, "Folder with config.json, weights and tokenizer")->required();
  c->add_option("-o,--output", o->output, "The model file [SRC's name with .flex, here]");
  c->add_option("--dtype", o->dtype, "f32, f16 or bf16 for all weights [each as stored]");
  c->add_flag("--overwrite", o->overwrite, "Replace the output if it exists");
  c->add_flag("--json", o->json, "Print the result as JSON");
  c->callback([o, &selected] { selected = [o] { return convert(*o); }; });
}

}  // namespace flexgen::tools
