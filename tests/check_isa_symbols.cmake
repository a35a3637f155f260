# SPDX-License-Identifier: Apache-2.0
# cmake -DNM=nm -DOBJECTS="a.o;b.o" -P check_isa_symbols.cmake: what is compiled for one instruction set stays there. A function that
# several translation units define (weak: inline functions, templates) is kept once by the linker; were it the copy with AVX-512 inside,
# older CPUs would stop at an illegal instruction. So every weak function of backend_<isa>.cc carries the instruction set in its name.
cmake_minimum_required(VERSION 3.25)

set(checked 0)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "backend_(avx[a-z0-9]*)\\.cc\\.o(bj)?$")
    continue()
  endif()
  set(isa ${CMAKE_MATCH_1})
  math(EXPR checked "${checked} + 1")
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL " [WVu] [^\n]+" weak "${symbols}")
  foreach(symbol IN LISTS weak)
    if(NOT symbol MATCHES "(cpu|_)[46]${isa}")  # namespace cpu::<isa> as mangled, with its length; S0_ may stand for cpu
      message(SEND_ERROR "${object}: a copy of${symbol} is compiled for ${isa}, and the linker may keep it for every CPU")
    endif()
  endforeach()
endforeach()
if(checked EQUAL 0)
  message(FATAL_ERROR "no object of an instruction set among: ${OBJECTS}")
endif()
