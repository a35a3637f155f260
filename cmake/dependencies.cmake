# SPDX-License-Identifier: Apache-2.0
# Finds the libraries (third_party/README.md says what each is for). With FLEXGEN_STATIC their archives are taken, with all that
# those need in turn, so that the program asks the system for nothing but glibc.
if(FLEXGEN_STATIC)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)

add_library(flexgen_fmt INTERFACE)
add_library(flexgen_edit INTERFACE)
target_link_libraries(flexgen_fmt INTERFACE $<IF:$<BOOL:${FLEXGEN_STATIC}>,fmt::fmt-header-only,fmt::fmt>)  # Debian has no libfmt.a
target_link_libraries(flexgen_edit INTERFACE PkgConfig::EDIT)
if(FLEXGEN_STATIC)
  foreach(name bsd md tinfo)  # what libedit.a needs; its .pc file names ncurses by an alias that has no archive
    find_library(FLEXGEN_${name}_ARCHIVE ${name} REQUIRED)
    target_link_libraries(flexgen_edit INTERFACE ${FLEXGEN_${name}_ARCHIVE})
  endforeach()
  add_link_options(-static-libstdc++ -static-libgcc)
endif()
