// SPDX-License-Identifier: Apache-2.0
// One command a file: add_X() declares its options under the program and says what to run when it was named.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace flexgen::tools {

// Set by the command that the command line names; its result is the exit code.
using Selected = std::function<int()>;

void add_convert(CLI::App& program, Selected& selected);
void add_inspect(CLI::App& program, Selected& selected);
void add_synth(CLI::App& program, Selected& selected);
void add_tokenize(CLI::App& program, Selected& selected);
void add_generate(CLI::App& program, Selected& selected);
void add_chat(CLI::App& program, Selected& selected);
void add_eval(CLI::App& program, Selected& selected);
void add_cache(CLI::App& program, Selected& selected);
void add_trace(CLI::App& program, Selected& selected);
void add_devices(CLI::App& program, Selected& selected);

}  // namespace flexgen::tools
