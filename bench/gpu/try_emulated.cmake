# SPDX-License-Identifier: Apache-2.0
# cmake -DPROGRAM=<gpu_check_emulated> -DWORK=<folder> -P try_emulated.cmake: jobs of every kind, with tiny shapes (all of them:
# gpu_check_emulated --smoke). The cases of tests/cuda are left out but for one: test_cuda runs them. Then a time that is too short, a card
# and a file that are not there.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/expect.cmake)

set(json ${WORK}/gpu_check.json)
file(REMOVE ${json})
execute_process(COMMAND ${PROGRAM} --smoke --json ${json} --filter ceilings "case: a card's memory" "check: linear f16 3" "check: attention"
  "linear: tiny out f16" attention: other: "variants: tiny out f16 T=1"
  OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("smoke" ${rc} 0 "\n[0-9]+ passed, 0 failed\n$")
file(READ ${json} results)
foreach(member schema card passed failed bandwidth rows checks skipped scale seconds)
  string(JSON ignored ERROR_VARIABLE error GET "${results}" ${member})
  if(error)
    message(FATAL_ERROR "${json}: ${error}")
  endif()
endforeach()
string(JSON n LENGTH "${results}" rows)
if(n LESS 25)
  message(FATAL_ERROR "${json}: ${n} rows")
endif()

execute_process(COMMAND ${PROGRAM} --smoke --filter ceilings --last-known ${json} --one-process
  OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("one process" ${rc} 0 "0 passed, 0 failed")
execute_process(COMMAND ${PROGRAM} --smoke --seconds 0 OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("no time" ${rc} 0 "more: time was up")
execute_process(COMMAND ${PROGRAM} --faults --job-seconds 1 OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("faults" ${rc} 1 "\n1 passed, 4 failed\n$")
foreach(text "fault: dies: killed by signal 11" "fault: card: the card is lost .exit code 1." "fault: hangs: did not come back within 1 s"
    "fault: throws: .*a broken precondition" "fault: too large: .* of device memory")
  expect("faults" ${rc} 1 "\n${text}")
endforeach()
execute_process(COMMAND ${PROGRAM} --device 1 OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("no card" ${rc} 77 "^gpu_check: no card: 1 card, cuda:1 asked for\n$")
execute_process(COMMAND ${PROGRAM} --last-known ${CMAKE_CURRENT_LIST_FILE} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
expect("not results" ${rc} 2 "found no results of gpu_check, allowed a file that --json wrote")
