# SPDX-License-Identifier: Apache-2.0
# CUDA kernels on a CPU, for tests only: the emulator and a function that builds tests on it. Needs CUDA's headers (cuda_fp16.h), no
# compiler, driver or card of CUDA. Where they are absent FLEXGEN_EMULATOR is OFF and says why.
set(FLEXGEN_EMULATOR OFF)
if(FLEXGEN_SANITIZE)
  message(STATUS "Emulated CUDA tests: left out under -fsanitize=${FLEXGEN_SANITIZE}, which knows neither its fibers nor its own memory hooks")
  return()
endif()
find_package(CUDAToolkit QUIET)
find_path(FLEXGEN_CUDA_HEADERS cuda_fp16.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATHS /usr/local/cuda/include DOC "Folder of cuda_fp16.h")
mark_as_advanced(FLEXGEN_CUDA_HEADERS)
if(NOT FLEXGEN_CUDA_HEADERS)
  message(STATUS "Emulated CUDA tests: left out, no cuda_fp16.h (-DFLEXGEN_CUDA_HEADERS=<folder> names one)")
  return()
endif()
message(STATUS "Emulated CUDA tests: with the headers of ${FLEXGEN_CUDA_HEADERS}")
set(FLEXGEN_EMULATOR ON)

file(GLOB emulator_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/emu/*.cc)
add_library(flexgen_emu STATIC ${emulator_sources})
target_include_directories(flexgen_emu PUBLIC ${CMAKE_SOURCE_DIR})
target_include_directories(flexgen_emu SYSTEM PUBLIC ${FLEXGEN_CUDA_HEADERS})
target_link_libraries(flexgen_emu PUBLIC flexgen_core PRIVATE flexgen_dev)
target_compile_options(flexgen_emu PRIVATE -O2)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")  # which has its own switch of fibers; ucontext is the last resort
  find_package(Boost QUIET COMPONENTS context)
  if(Boost_FOUND)
    target_compile_definitions(flexgen_emu PRIVATE FLEXGEN_EMU_BOOST=1)
    target_link_libraries(flexgen_emu PRIVATE Boost::context)
  endif()
endif()

# Every header alone, as in tests/CMakeLists.txt
file(GLOB emulator_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/emu/*.h ${CMAKE_SOURCE_DIR}/kernels/cuda/core/*.h)
add_library(flexgen_emu_headers INTERFACE)
target_sources(flexgen_emu_headers INTERFACE FILE_SET HEADERS BASE_DIRS ${CMAKE_SOURCE_DIR} FILES ${emulator_headers})
target_link_libraries(flexgen_emu_headers INTERFACE flexgen_emu)
set_target_properties(flexgen_emu_headers PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)

# add_emulated_test(<name> <sources>...): test_<name>, which runs kernels in the emulator, as the ctest <name>
# add_emulated_test(<name> RACE <sources>...): the same with a call of the emulator at each load and store. Race mode is those calls
# without libtsan: the option is given to the compiler only.
function(add_emulated_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "RACE" "" "")
  add_executable(test_${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(test_${name} PRIVATE test_main flexgen_emu flexgen_dev)
  target_compile_options(test_${name} PRIVATE -O2 -g1 -ffp-contract=off)  # line numbers for the emulator's reports
  if(arg_RACE)
    target_compile_options(test_${name} PRIVATE -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
    target_compile_definitions(test_${name} PRIVATE FLEXGEN_RACE=1)
  else()
    target_compile_definitions(test_${name} PRIVATE FLEXGEN_RACE=0)
  endif()
  add_test(NAME ${name} COMMAND test_${name})
endfunction()
