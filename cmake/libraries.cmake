# The libraries besides libtorch. formwork_libraries carries them all.
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PNG REQUIRED)
find_package(Threads REQUIRED)

# xxHash comes without a CMake package on Debian.
find_path(XXHASH_INCLUDE_DIR xxhash.h)
find_library(XXHASH_LIBRARY xxhash)
if(NOT XXHASH_INCLUDE_DIR OR NOT XXHASH_LIBRARY)
  message(FATAL_ERROR "xxHash (xxhash.h and libxxhash) was not found; on Debian: libxxhash-dev.")
endif()

# cpp-httplib: its own CMake package where it has one; Debian's has pkg-config's. One file includes
# it (and its flags are for that file only); all programs link it.
find_package(httplib QUIET)
if(NOT TARGET httplib::httplib)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib)
  add_library(httplib::httplib ALIAS PkgConfig::httplib)
endif()
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/lab/watch.cpp PROPERTIES SKIP_PRECOMPILE_HEADERS ON
  COMPILE_OPTIONS "$<TARGET_PROPERTY:httplib::httplib,INTERFACE_COMPILE_OPTIONS>"
  COMPILE_DEFINITIONS "$<TARGET_PROPERTY:httplib::httplib,INTERFACE_COMPILE_DEFINITIONS>"
  INCLUDE_DIRECTORIES "$<TARGET_PROPERTY:httplib::httplib,INTERFACE_INCLUDE_DIRECTORIES>")

# Gloo: libtorch has the code, but not the headers that its ProcessGroupGloo.hpp includes. Only the
# headers are used: linking a second libgloo would give every symbol twice.
find_path(GLOO_INCLUDE_DIR gloo/context.h)
if(NOT GLOO_INCLUDE_DIR)
  message(STATUS "Gloo's headers were not found (Debian: libgloo-dev): training stays in one process.")
endif()

add_library(formwork_libraries INTERFACE)
target_include_directories(formwork_libraries SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
target_compile_definitions(formwork_libraries INTERFACE
                           $<IF:$<BOOL:${GLOO_INCLUDE_DIR}>,FORMWORK_GLOO=1,FORMWORK_GLOO=0>)
if(GLOO_INCLUDE_DIR)
  target_include_directories(formwork_libraries SYSTEM INTERFACE ${GLOO_INCLUDE_DIR})
endif()
target_link_libraries(formwork_libraries INTERFACE tomlplusplus::tomlplusplus CLI11::CLI11
                      nlohmann_json::nlohmann_json ZLIB::ZLIB PNG::PNG $<LINK_ONLY:httplib::httplib>
                      ${XXHASH_LIBRARY} Threads::Threads)

# Off: measured slower than the C library told to keep what is freed (src/cli/main.cpp). Only
# programs link it, before everything else, and never together with a sanitizer's own allocator.
option(FORMWORK_MIMALLOC "let mimalloc serve the programs' memory where it is installed" OFF)
add_library(formwork_allocator INTERFACE)
if(FORMWORK_MIMALLOC AND NOT FORMWORK_SANITIZE)
  find_package(mimalloc QUIET)
  if(TARGET mimalloc AND NOT APPLE)
    target_link_libraries(formwork_allocator INTERFACE
                          -Wl,--push-state,--no-as-needed mimalloc -Wl,--pop-state)
  endif()
endif()
