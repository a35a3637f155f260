# SPDX-License-Identifier: Apache-2.0
# cmake -DSCRIPT=<run.sh> -DFLEXGEN=<flexgen> -DGPU_CHECK=<gpu_check_emulated> -DWORK=<folder> -P try_run.cmake: run.sh where there is no
# card, with programs built elsewhere, and with what it does not take.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/expect.cmake)

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK}/carried)
file(CREATE_LINK ${FLEXGEN} ${WORK}/carried/flexgen SYMBOLIC)
file(CREATE_LINK ${GPU_CHECK} ${WORK}/carried/gpu_check SYMBOLIC)
set(ENV{CUDA_VISIBLE_DEVICES} "")
foreach(stages card,build,sass,check,sanitize,end-to-end end-to-end)
  execute_process(COMMAND ${SCRIPT} --prebuilt ${WORK}/carried --out ${WORK}/results --stages ${stages}
    OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
  expect("no card, ${stages}" ${rc} 77 "\nFAILED: no card: ")
  file(GLOB results ${WORK}/results/*.json*)
  if(results)
    message(FATAL_ERROR "results without a card: ${results}")
  endif()
endforeach()

execute_process(COMMAND ${SCRIPT} --prebuilt ${WORK} --out ${WORK}/results --stages check OUTPUT_VARIABLE output ERROR_VARIABLE output
  RESULT_VARIABLE rc)
expect("no programs" ${rc} 1 "\nFAILED: ${WORK}/gpu_check is not there\n")
function(refuse message)
  execute_process(COMMAND ${SCRIPT} ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
  expect("${ARGN}" ${rc} 2 "${message}")
endfunction()
refuse("--stages: found 'all', allowed card, build, sass" --stages all)
refuse("--seconds: found 'soon', allowed a number" --seconds soon)
refuse("--out needs a value" --out)
refuse("unknown: --fast" --fast)
