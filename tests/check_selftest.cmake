# SPDX-License-Identifier: Apache-2.0
# cmake -DWORK=<folder> -P check_selftest.cmake: the structure checks themselves. A small good tree passes; with one thing wrong at a
# time each check fails and says what it is about.
cmake_minimum_required(VERSION 3.25)

set(spdx "// SPDX-License-Identifier: Apache-2.0\n")
set(header "${spdx}#pragma once\n")

# WORK/tree anew: what both checks accept
function(good_tree)
  file(REMOVE_RECURSE ${WORK}/tree)
  file(WRITE ${WORK}/tree/include/flexgen/base/a.h "${header}#include <vector>\n")
  file(WRITE ${WORK}/tree/include/flexgen/io/b.h "${header}#include \"flexgen/base/a.h\"\n#include \"flexgen/io/c.h\"\n")
  file(WRITE ${WORK}/tree/include/flexgen/io/c.h "${header}")
  file(WRITE ${WORK}/tree/kernels/k.cc "${spdx}#include \"kernels/k.h\"\n#include \"flexgen/base/a.h\"\n")
  file(WRITE ${WORK}/tree/tests/base/test_a.cc "${spdx}// About it.\n#include \"flexgen/base/a.h\"\n")
  file(WRITE ${WORK}/tree/tests/io/test_b.cc "${spdx}#include \"flexgen/io/b.h\"\n")
  file(WRITE ${WORK}/tree/tests/untested_headers.txt "# reasons\nio/c.h: types only, in tests/io/test_b.cc\n")
  file(WRITE ${WORK}/tree/CMakeLists.txt "# SPDX-License-Identifier: Apache-2.0\n")
endfunction()

# runs the check; wanted: "" where it must pass, or a piece of the message with which it must fail
function(expect script wanted)
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${WORK}/tree -P ${CMAKE_CURRENT_LIST_DIR}/${script} RESULT_VARIABLE rc ERROR_VARIABLE err)
  string(REGEX REPLACE "[ \n]+" " " err "${err}")
  string(FIND "${err}" "${wanted}" found)
  if(wanted STREQUAL "" AND NOT rc EQUAL 0)
    message(SEND_ERROR "${script} refuses a good tree: ${err}")
  elseif(NOT wanted STREQUAL "" AND (rc EQUAL 0 OR found EQUAL -1))
    message(SEND_ERROR "${script} should fail with '${wanted}', but ended with ${rc}: ${err}")
  endif()
endfunction()

# a good tree in which one file is replaced
function(expect_bad script path content wanted)
  good_tree()
  file(WRITE ${WORK}/tree/${path} "${content}")
  expect(${script} "${wanted}")
endfunction()

good_tree()
expect(check_layers.cmake "")
expect(check_sources.cmake "")

expect_bad(check_layers.cmake include/flexgen/base/a.h "${header}#include \"flexgen/io/b.h\"\n" "'base' must not include 'io'")
expect_bad(check_layers.cmake include/flexgen/base/a.h "${header}  #  include <flexgen/io/b.h>\n" "'base' must not include 'io'")
expect_bad(check_layers.cmake include/flexgen/text/t.h "${header}#include \"flexgen/ops/o.h\"\n" "'text' must not include 'ops'")
expect_bad(check_layers.cmake include/flexgen/base/a.h "${header}#include \"../io/b.h\"\n" "is not a path from the root")
expect_bad(check_layers.cmake include/flexgen/engine/e.h "${header}#include \"kernels/k.h\"\n" "'engine' must not include kernels/k.h")
expect_bad(check_layers.cmake include/flexgen/engine/e.h "${header}#include <cuda_runtime.h>\n" "may include <cuda_runtime.h>")
expect_bad(check_layers.cmake include/flexgen/misc/u.h "${header}" "'misc' is not a layer")
expect_bad(check_layers.cmake include/flexgen/base/a.cc "${spdx}" "only snake_case.h files")
expect_bad(check_layers.cmake kernels/k.cc "${spdx}#include \"flexgen/model/m.h\"\n" "'kernels' must not include 'model'")
expect_bad(check_layers.cmake kernels/cuda/k.cu "${spdx}#include \"tools/t.h\"\n" "'kernels' must not include tools/t.h")

expect_bad(check_sources.cmake kernels/k.cc "int x;\n" "kernels/k.cc: does not begin with SPDX")
expect_bad(check_sources.cmake tools/x.sh "#!/bin/sh\n" "tools/x.sh: does not begin with SPDX")
expect_bad(check_sources.cmake include/flexgen/base/a.h "${spdx}" "has no #pragma once")
string(REPEAT "x" 151 long_line)
expect_bad(check_sources.cmake kernels/k.cc "${spdx}// a; list\n\n${long_line}\n" "kernels/k.cc:4: found 151 columns, allowed 150")
expect_bad(check_sources.cmake kernels/k.h "${header}namespace x {\nusing namespace std;\n}\n" "'using namespace'")
expect_bad(check_sources.cmake include/flexgen/io/d.h "${header}" "include/flexgen/io/d.h: has no test")
expect_bad(check_sources.cmake tests/base/test_a.cc "${spdx}#include <vector>\n#include \"flexgen/base/a.h\"\n"
           "its first include must be flexgen/base/a.h")
expect_bad(check_sources.cmake tests/base/test_a.cc "${spdx}" "its first include must be flexgen/base/a.h")
expect_bad(check_sources.cmake tests/io/test_c.cc "${spdx}" "io/c.h has a test")
expect_bad(check_sources.cmake tests/untested_headers.txt "io/c.h: types\nio/gone.h: why\n" "io/gone.h does not exist")
expect_bad(check_sources.cmake tests/untested_headers.txt "io/c.h: in tests/io/test_gone.cc\n" "tests/io/test_gone.cc does not exist")
expect_bad(check_sources.cmake tests/untested_headers.txt "io/c.h\n" "is not 'folder/name.h: reason'")
string(CONCAT place "/ho" "me/somebody/models")
expect_bad(check_sources.cmake README.md "Put it into ${place}.\n" "names a folder of one machine: ${place}")
expect_bad(check_sources.cmake kernels/k.cc "${spdx}// see ${place}\n" "names a folder of one machine: ${place}")

file(REMOVE_RECURSE ${WORK}/tree)
