# SPDX-License-Identifier: Apache-2.0
# For scripts that try a program: a run, what it is called here, must have ended with the exit code `expected` and have written `text`, a
# regular expression. rc: its exit code; its output is in the caller's variable `output`.
function(expect what rc expected text)
  if(NOT rc EQUAL expected)
    message(FATAL_ERROR "${what}: found exit code ${rc}, expected ${expected}:\n${output}")
  endif()
  if(NOT output MATCHES "${text}")
    message(FATAL_ERROR "${what}: '${text}' is not in:\n${output}")
  endif()
endfunction()
