// SPDX-License-Identifier: Apache-2.0
// flexgen: the command-line program.
#include "tools/command.h"
#include "tools/program.h"

int main(int argc, char** argv) {
  using namespace flexgen::tools;
  CLI::App program{"Runs large language models that do not fit the machine.", "flexgen"};
  program.get_formatter()->column_width(34);
  Selected selected;
  add_convert(program, selected);
  add_inspect(program, selected);
  add_synth(program, selected);
  add_tokenize(program, selected);
  add_generate(program, selected);
  add_chat(program, selected);
  add_eval(program, selected);
  add_cache(program, selected);
  add_trace(program, selected);
  add_devices(program, selected);
  return run_program(program, [&] { return selected(); }, argc, argv);
}
