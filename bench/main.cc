// SPDX-License-Identifier: Apache-2.0
// flexgen-bench: measures operations against the machine's own roofs, in the same run.
#include <fmt/core.h>

#include <cstdio>
#include <exception>

#include "bench/command.h"
#include "flexgen/base/error.h"

int main(int argc, char** argv) {
  try {
    CLI::App program{"Measures flexgen's parts beside the machine's own roofs.", "flexgen-bench"};
    program.require_subcommand(1);
    flexgen::bench::Selected selected;
    flexgen::bench::add_io(program, selected);
    flexgen::bench::add_ops(program, selected);
    flexgen::bench::add_tokenize(program, selected);
    flexgen::bench::add_overlap(program, selected);
    flexgen::bench::add_end_to_end(program, selected);
    CLI11_PARSE(program, argc, argv);
#ifndef NDEBUG
    flexgen::fail(flexgen::Fault::usage, "flexgen-bench: this is a build with assertions, allowed are optimised ones. Configure the release preset");
#endif
    return selected();
  } catch (const flexgen::Error& e) {
    fmt::print(stderr, "error[E-{}]: {}\n", flexgen::name(e.fault()), e.what());
    return flexgen::exit_code(e.fault());
  } catch (const std::exception& e) {
    fmt::print(stderr, "error[E-internal]: {}\n", e.what());
    return flexgen::exit_code(flexgen::Fault::internal);
  }
}
