// SPDX-License-Identifier: Apache-2.0
// One benchmark a file: add_X() declares its options and says what to run when it was named.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace flexgen::bench {

// Set by the benchmark that the command line names; its result is the exit code.
using Selected = std::function<int()>;

void add_io(CLI::App& program, Selected& selected);
void add_ops(CLI::App& program, Selected& selected);
void add_tokenize(CLI::App& program, Selected& selected);
void add_overlap(CLI::App& program, Selected& selected);
void add_end_to_end(CLI::App& program, Selected& selected);

}  // namespace flexgen::bench
