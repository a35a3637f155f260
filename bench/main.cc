// SPDX-License-Identifier: Apache-2.0
// flexgen-bench: measures operations against the machine's own roofs, in the same run.
#include "bench/command.h"
#include "flexgen/base/error.h"
#include "tools/interrupt.h"
#include "tools/program.h"

int main(int argc, char** argv) {
  using namespace flexgen::bench;
  CLI::App program{"Measures flexgen's parts beside the machine's own roofs.", "flexgen-bench"};
  Selected selected;
  add_io(program, selected);
  add_ops(program, selected);
  add_tokenize(program, selected);
  add_overlap(program, selected);
  add_end_to_end(program, selected);
  const auto run = [&] {
#ifndef NDEBUG
    flexgen::fail(flexgen::Fault::usage, "flexgen-bench: this is a build with assertions, allowed are optimised ones. Configure the release preset");
#endif
    flexgen::tools::catch_interrupts();
    return selected();
  };
  return flexgen::tools::run_program(program, run, argc, argv);
}
