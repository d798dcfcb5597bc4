# Finds libtorch's CMake package: FORMWORK_LIBTORCH (environment or -D), or the private environment
# that the launcher makes in .formwork/venv.
set(FORMWORK_LIBTORCH "$ENV{FORMWORK_LIBTORCH}" CACHE PATH "folder of a libtorch >= 2.11")
if(FORMWORK_LIBTORCH)
  list(PREPEND CMAKE_PREFIX_PATH ${FORMWORK_LIBTORCH})
else()
  file(GLOB FORMWORK_WHEEL ${CMAKE_SOURCE_DIR}/.formwork/venv/lib/python3*/site-packages/torch)
  list(PREPEND CMAKE_PREFIX_PATH ${FORMWORK_WHEEL})
endif()

# libtorch's own configuration warns of parts that nobody asked for (kineto).
set(CMAKE_MESSAGE_LOG_LEVEL ERROR)
find_package(Torch 2.11 QUIET)
unset(CMAKE_MESSAGE_LOG_LEVEL)
if(NOT Torch_FOUND)
  message(FATAL_ERROR "libtorch 2.11 or newer was not found: run ./formwork once, or name its folder "
                      "(the one that holds include, lib and share) in FORMWORK_LIBTORCH.")
endif()
