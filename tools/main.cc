// SPDX-License-Identifier: Apache-2.0
// flexgen: the command-line program. Parses, runs the command that was named, turns failures into messages and exit codes.
#include <fmt/core.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"
#include "tools/command.h"

namespace {

constexpr const char* kExitCodes =
    "Exit codes:\n"
    "  0 done   1 done, but some prompts failed (each has its error in the output)   2 usage, option or prompt\n"
    "  3 bad checkpoint, config, tokenizer or model file   4 I/O error   5 does not fit (memory, GPU memory or disk)   6 GPU fault\n"
    "  7 damage found (hash, truncation)   8 locked by another run   130 interrupted";

// The words of the command line, last one first, as CLI11 takes them. `--name=` is a name and an empty value, which CLI11 would refuse.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool empty_value = word.size() > 3 && word.starts_with("--") && word.find('=') == word.size() - 1;
    words.emplace_back(empty_value ? word.substr(0, word.size() - 1) : word);
    if (empty_value) words.emplace_back();
  }
  std::reverse(words.begin(), words.end());
  return words;
}

int run(int argc, char** argv) {
  CLI::App program{"Runs large language models that do not fit the machine.", "flexgen"};
  program.set_version_flag("--version", "flexgen " FLEXGEN_VERSION);
  program.require_subcommand(1);
  program.get_formatter()->column_width(34);

  flexgen::tools::Selected selected;
  flexgen::tools::add_convert(program, selected);
  flexgen::tools::add_inspect(program, selected);
  flexgen::tools::add_synth(program, selected);
  flexgen::tools::add_tokenize(program, selected);
  flexgen::tools::add_generate(program, selected);
  flexgen::tools::add_chat(program, selected);
  flexgen::tools::add_eval(program, selected);
  flexgen::tools::add_cache(program, selected);
  flexgen::tools::add_trace(program, selected);
  flexgen::tools::add_devices(program, selected);

  program.footer(kExitCodes);  // set last: commands would inherit it
  for (CLI::App* command : program.get_subcommands({})) command->footer(command->get_footer() + kExitCodes);
  try {
    program.parse(arguments(argc, argv));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return program.exit(e);  // --help, --version
    fmt::print(stderr, "error[E-usage]: {}\nRun flexgen --help, or flexgen COMMAND --help.\n", e.what());
    return flexgen::exit_code(flexgen::Fault::usage);
  }
  return selected();
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write, not the end of the process
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return run(argc, argv);
  } catch (const flexgen::Error& e) {
    fmt::print(stderr, "error[E-{}]: {}\n", flexgen::name(e.fault()), e.what());
    return flexgen::exit_code(e.fault());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error[E-space]: out of memory. Close other programs or give the machine more memory\n");
    return flexgen::exit_code(flexgen::Fault::space);
  } catch (const std::exception& e) {
    fmt::print(stderr, "error[E-internal]: {}\n", e.what());
    return flexgen::exit_code(flexgen::Fault::internal);
  }
}
