# SPDX-License-Identifier: Apache-2.0
# CUDA kernels, where there is a compiler for them. FLEXGEN_CUDA: AUTO builds them where nvcc is found, ON fails without, OFF leaves
# them out. CMAKE_CUDA_ARCHITECTURES names the cards to build for; by default the one in this machine, or else two that are common.
set_property(CACHE FLEXGEN_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FLEXGEN_CUDA_FOUND OFF)
if(FLEXGEN_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off (FLEXGEN_CUDA=OFF); the CPU engine is built")
  return()
endif()

# 9.0 -> 90a-real: the instructions of a Hopper card are only in its own variant
function(flexgen_card_architectures result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE rc)
  set(list)
  if(rc EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" caps "${found}")
    list(REMOVE_DUPLICATES caps)
    foreach(cap IN LISTS caps)
      string(REPLACE "." "" arch ${cap})
      if(arch EQUAL 90)
        set(arch 90a)
      endif()
      list(APPEND list ${arch}-real)
    endforeach()
  endif()
  set(${result} "${list}" PARENT_SCOPE)
endfunction()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)  # before check_language: it would leave an empty list behind
  flexgen_card_architectures(card)
  if(NOT card)
    set(card 80-real 90a-real)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${card}" CACHE STRING "Cards that the CUDA kernels are built for")
endif()
list(TRANSFORM CMAKE_CUDA_ARCHITECTURES REPLACE "^90(-real)?$" "90a\\1")  # wgmma is in 90a alone, and every card of 9.0 has it
if(NOT CMAKE_CUDA_COMPILER)
  find_program(FLEXGEN_NVCC nvcc HINTS ENV CUDAToolkit_ROOT PATHS /usr/local/cuda/bin)
  mark_as_advanced(FLEXGEN_NVCC)
  if(FLEXGEN_NVCC)
    set(CMAKE_CUDA_COMPILER ${FLEXGEN_NVCC})
  endif()
endif()
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  set(flexgen_suffixes ${CMAKE_FIND_LIBRARY_SUFFIXES})
  list(APPEND CMAKE_FIND_LIBRARY_SUFFIXES .so)  # with FLEXGEN_STATIC too: the module insists on libcudart.so, though nobody links it
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_FIND_LIBRARY_SUFFIXES ${flexgen_suffixes})
  set(FLEXGEN_CUDA_FOUND ON)
  foreach(kind STANDARD EXTENSION)  # CMake before 3.25.2 does not know that nvcc has C++20
    if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
      set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
    endif()
  endforeach()
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
elseif(FLEXGEN_CUDA STREQUAL "AUTO")
  message(STATUS "CUDA: no compiler found; the CPU engine is built")
else()
  message(FATAL_ERROR "FLEXGEN_CUDA=${FLEXGEN_CUDA}: no CUDA compiler found. Install nvcc, name it with -DCMAKE_CUDA_COMPILER=<path>, "
          "or use -DFLEXGEN_CUDA=OFF")
endif()

set(FLEXGEN_NVCC_OPTIONS --expt-relaxed-constexpr)  # device code calls the constexpr functions of ops/math.h
# A sixth of what the default leaves, for six cards. Not before 13, whose programs ask for drivers that know this compression
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  list(APPEND FLEXGEN_NVCC_OPTIONS --compress-mode=size)
endif()

# The library of kernels and launches. Not a line of it is needed to run without a card, and no driver is linked. What nvcc compiles is
# apart, since flexgen_dev's warnings are not nvcc's.
function(flexgen_add_cuda_library)
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/inst/*.cu)
  add_library(flexgen_cuda_kernels OBJECT ${kernels})
  target_include_directories(flexgen_cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/include)
  # ptxas's report of each kernel goes to a file beside its object, for check_ptxas
  target_compile_options(flexgen_cuda_kernels PRIVATE ${FLEXGEN_NVCC_OPTIONS} -Xptxas=-v -Xcompiler=-Wall,-Wextra
    $<$<BOOL:${FLEXGEN_WERROR}>:-Werror=all-warnings>)
  set_target_properties(flexgen_cuda_kernels PROPERTIES
    RULE_LAUNCH_COMPILE "${CMAKE_COMMAND} -DLOG=<OBJECT>.ptxas -P ${CMAKE_SOURCE_DIR}/cmake/run_to_log.cmake --")
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/api/*.cc ${CMAKE_SOURCE_DIR}/kernels/cuda/runtime/*.cc)
  add_library(flexgen_cuda STATIC ${sources} $<TARGET_OBJECTS:flexgen_cuda_kernels>)
  target_include_directories(flexgen_cuda PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(flexgen_cuda PUBLIC flexgen_core CUDA::cudart_static ${CMAKE_DL_LIBS} PRIVATE flexgen_dev)
  list(JOIN CMAKE_CUDA_ARCHITECTURES "," architectures)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/kernels/cuda/runtime/cuda_device.cc PROPERTIES
    COMPILE_DEFINITIONS "FLEXGEN_CUDA_ARCHITECTURES=\"${architectures}\"")
endfunction()

# Target check_ptxas: compares what ptxas said of every kernel that was built with kernels/cuda/registers.txt, for the cards that both
# know; CI builds for all three of the table. Target update_registers writes that table anew, in a build for these three.
function(flexgen_add_check_ptxas)
  find_program(FLEXGEN_CXXFILT c++filt)
  mark_as_advanced(FLEXGEN_CXXFILT)
  set(logs ${CMAKE_BINARY_DIR}/ptxas_logs.txt)
  file(GENERATE OUTPUT ${logs} CONTENT "$<JOIN:$<TARGET_OBJECTS:flexgen_cuda_kernels>,.ptxas\n>.ptxas\n")
  set(check ${CMAKE_COMMAND} -DLOGS=${logs} -DCXXFILT=${FLEXGEN_CXXFILT} -DTABLE=${CMAKE_SOURCE_DIR}/kernels/cuda/registers.txt)
  add_custom_target(check_ptxas COMMAND ${check} -P ${CMAKE_SOURCE_DIR}/tests/check_ptxas.cmake VERBATIM)
  add_custom_target(update_registers COMMAND ${check} -DUPDATE=ON -P ${CMAKE_SOURCE_DIR}/tests/check_ptxas.cmake VERBATIM)
  add_dependencies(check_ptxas flexgen_cuda_kernels)
  add_dependencies(update_registers flexgen_cuda_kernels)
endfunction()
