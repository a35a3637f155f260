# SPDX-License-Identifier: Apache-2.0
# cmake -DCOMMAND=<list> -DLOG=<file> -P run_to_log.cmake: runs the command with its output in a file, which exists only if it succeeded.
get_filename_component(folder ${LOG} DIRECTORY)
file(MAKE_DIRECTORY ${folder})
execute_process(COMMAND ${COMMAND} RESULT_VARIABLE rc OUTPUT_FILE ${LOG}.part ERROR_FILE ${LOG}.part)
if(NOT rc EQUAL 0)
  file(READ ${LOG}.part text)
  message(FATAL_ERROR "${text}\nended with ${rc}")
endif()
file(RENAME ${LOG}.part ${LOG})
