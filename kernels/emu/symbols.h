// SPDX-License-Identifier: Apache-2.0
// Names and lines of code addresses, for messages: what addr2line (binutils, which g++ needs anyway) says of this program.
#pragma once

#include <string>

#include "kernels/emu/location.h"

namespace flexgen::emu {

struct Symbol {
  std::string function;  // without arguments; empty where unknown
  std::string file;      // the file's name without folders
  int line = 0;
};

// Of an instruction: inline functions of CUDA's and the emulator's headers are skipped, so that the line is one of the kernel
Symbol symbol_of(const void* pc);

// "gemm.cuh:57", or the program counter where debug information is missing. Neither: what was left behind by all of the block's lines
std::string line_text(const Location& where, const void* pc);

}  // namespace flexgen::emu
