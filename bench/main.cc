// SPDX-License-Identifier: Apache-2.0
// flexgen-bench: measures operations against the machine's own roofs, in the same run.
#include <CLI/CLI.hpp>

int main(int argc, char** argv) {
  CLI::App program{"Measures flexgen's parts beside the machine's own roofs.", "flexgen-bench"};
  program.require_subcommand(1);
  CLI11_PARSE(program, argc, argv);
  return 0;
}
