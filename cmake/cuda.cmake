# SPDX-License-Identifier: Apache-2.0
# Says in one line whether CUDA kernels are built. This version has none, so the answer is no, whatever compiler is installed; the
# language is not enabled, which would cost every configure run seconds.
set_property(CACHE FLEXGEN_CUDA PROPERTY STRINGS AUTO ON OFF)
if(FLEXGEN_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off (FLEXGEN_CUDA=OFF); the CPU engine is built")
elseif(NOT FLEXGEN_CUDA STREQUAL "AUTO")
  message(FATAL_ERROR "FLEXGEN_CUDA=${FLEXGEN_CUDA}: this version has no CUDA kernels. Use -DFLEXGEN_CUDA=AUTO")
else()
  find_program(FLEXGEN_NVCC nvcc HINTS ENV CUDAToolkit_ROOT PATHS /usr/local/cuda/bin)
  mark_as_advanced(FLEXGEN_NVCC)
  if(FLEXGEN_NVCC)
    message(STATUS "CUDA: ${FLEXGEN_NVCC} is here, but this version has no CUDA kernels; the CPU engine is built")
  else()
    message(STATUS "CUDA: not found; the CPU engine is built")
  endif()
endif()
