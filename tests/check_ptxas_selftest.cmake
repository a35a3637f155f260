# SPDX-License-Identifier: Apache-2.0
# cmake -DWORK=<folder> -DCXXFILT=<program> -P check_ptxas_selftest.cmake: check_ptxas itself. A good report passes; with one thing wrong
# at a time it fails and says what it is about.
cmake_minimum_required(VERSION 3.25)

set(mangled "_ZN7flexgen4cuda4gemmI6__halfNS0_8Gemm64x6EEEvNS0_13GemmArgumentsE")
set(check ${CMAKE_COMMAND} -DLOGS=${WORK}/logs.txt -DTABLE=${WORK}/table.txt -DCXXFILT=${CXXFILT})
file(WRITE ${WORK}/logs.txt "${WORK}/a.log\n")
# one kernel as ptxas reports it
function(report result sm stack stores loads registers)
  set(${result} "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '${mangled}' for '${sm}'
ptxas info    : Function properties for ${mangled}
    ${stack} bytes stack frame, ${stores} bytes spill stores, ${loads} bytes spill loads
ptxas info    : Used ${registers} registers, used 1 barriers, 1456 bytes cmem[0]
" PARENT_SCOPE)
endfunction()

function(expect what log table wanted)
  file(WRITE ${WORK}/a.log "${log}")
  file(WRITE ${WORK}/table.txt "${table}")
  execute_process(COMMAND ${check} -P ${CMAKE_CURRENT_LIST_DIR}/check_ptxas.cmake
                  RESULT_VARIABLE rc ERROR_VARIABLE err OUTPUT_VARIABLE out)
  string(REGEX REPLACE "[ \n]+" " " err "${err}")
  string(FIND "${err}" "${wanted}" found)
  if(wanted STREQUAL "" AND NOT rc EQUAL 0)
    message(SEND_ERROR "${what}: refused: ${err}")
  elseif(NOT wanted STREQUAL "" AND (rc EQUAL 0 OR found EQUAL -1))
    message(SEND_ERROR "${what}: should fail with '${wanted}', but ended with ${rc}: ${err}")
  endif()
endfunction()

set(table "# registers\nsm_80 100 gemm<__half, Gemm64x6>\n")
report(good sm_80 0 0 0 100)
expect("a good report" "${good}" "${table}" "")
report(log sm_80 0 0 0 99)
expect("fewer registers" "${log}" "${table}" "")
report(log sm_80 0 0 0 101)
expect("more registers" "${log}" "${table}" "found 101 registers, allowed 100")
report(log sm_80 8 0 0 100)
expect("a stack frame" "${log}" "${table}" "8 bytes stack frame")
report(log sm_80 0 4 0 100)
expect("spill stores" "${log}" "${table}" "4 bytes spill stores")
report(log sm_80 0 0 12 100)
expect("spill loads" "${log}" "${table}" "12 bytes spill loads")
report(log sm_90a 0 0 0 100)
expect("another card" "${log}" "${table}" "gemm<__half, Gemm64x6> for sm_90a has 100 registers and no line")
expect("a kernel without a line" "${good}" "" "has 100 registers and no line")
expect("a card that was not built for" "${good}" "${table}sm_75 10 gone\n" "")
expect("a line without a kernel" "${good}" "${table}sm_80 10 gone\n" "sm_80 gone is not compiled")
expect("a line that is none" "${good}" "${table}sm_80 gemm\n" "is not '<sm> <registers> <kernel>'")
foreach(warning "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to x"
                "(C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain y")
  expect("serialised wgmma" "${good}ptxas info    : ${warning} in function z\n" "${table}" "Potential Performance Loss")
endforeach()
expect("nothing" "ptxas info    : 0 bytes gmem\n" "${table}" "no kernel in what ptxas said")

# written anew: the comments stay
file(WRITE ${WORK}/a.log "${good}")
file(WRITE ${WORK}/table.txt "# registers\nsm_75 1 gone\n")
execute_process(COMMAND ${check} -DUPDATE=ON -P ${CMAKE_CURRENT_LIST_DIR}/check_ptxas.cmake RESULT_VARIABLE rc)
file(READ ${WORK}/table.txt written)
if(NOT rc EQUAL 0 OR NOT written STREQUAL table)
  message(SEND_ERROR "update wrote '${written}'")
endif()
file(REMOVE_RECURSE ${WORK})
