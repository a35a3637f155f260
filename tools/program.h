// SPDX-License-Identifier: Apache-2.0
// What flexgen and flexgen-bench have in common: the command line is parsed, what it names runs, and failures become a message on standard
// error and an exit code that scripts can rely on.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "flexgen/base/error.h"
#include "tools/command.h"
#include "tools/standard_output.h"

namespace flexgen::tools {

inline constexpr const char* kExitCodes =
    "Exit codes:\n"
    "  0 done   1 done, but some prompts failed (each has its error in the output)   2 usage, option or prompt\n"
    "  3 bad checkpoint, config, tokenizer or model file   4 I/O error   5 does not fit (memory, GPU memory or disk)   6 GPU fault\n"
    "  7 damage found (hash, truncation)   8 locked by another run   130 interrupted";

namespace detail {

// The words of the command line, last one first, as CLI11 takes them. `--name=` is a name and an empty value, which CLI11 would refuse.
inline std::vector<std::string> arguments(int argc, char** argv) {
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

inline int report(Fault fault, const char* message) {
  fmt::print(stderr, "error[E-{}]: {}\n", name(fault), message);
  return exit_code(fault);
}

inline int parse_and_run(CLI::App& program, const Selected& selected, int argc, char** argv) {
  try {
    program.parse(arguments(argc, argv));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return program.exit(e);  // --help, --version
    fmt::print(stderr, "error[E-usage]: {}\nRun {} --help, or {} COMMAND --help.\n", e.what(), program.get_name(), program.get_name());
    return exit_code(Fault::usage);
  }
  const int result = selected();
  StandardOutput().flush();
  return result;
}

}  // namespace detail

// program: with all its commands, which set `selected`
inline int run_program(CLI::App& program, const Selected& selected, int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write, not the end of the process
  std::signal(SIGXFSZ, SIG_IGN);
  program.set_version_flag("--version", program.get_name() + " " + FLEXGEN_VERSION);
  program.require_subcommand(1);
  program.footer(kExitCodes);  // set last: commands would inherit it
  for (CLI::App* command : program.get_subcommands({})) command->footer(command->get_footer() + kExitCodes);
  try {
    return detail::parse_and_run(program, selected, argc, argv);
  } catch (const Error& e) {
    return detail::report(e.fault(), e.what());
  } catch (const std::bad_alloc&) {
    return detail::report(Fault::space, "out of memory. Close other programs or give the machine more memory");
  } catch (const std::system_error& e) {
    if (!std::ferror(stdout)) return detail::report(Fault::internal, e.what());
    if (e.code().value() == EPIPE) return 0;  // its reader has enough
    return detail::report(e.code().value() == ENOSPC ? Fault::space : Fault::io, ("standard output: " + std::string(e.what())).c_str());
  } catch (const std::exception& e) {
    return detail::report(Fault::internal, e.what());
  }
}

}  // namespace flexgen::tools
