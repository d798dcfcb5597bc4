# Writes the definitions of src/core/build_info.h. Included by CMakeLists.txt it adds the rule; run as
# a script (cmake -P) it writes the file. The rule runs when HEAD moves, so an unchanged tree has
# nothing to do.
if(CMAKE_SCRIPT_MODE_FILE)
  execute_process(COMMAND git -c safe.directory=* describe --always --dirty --abbrev=12
                  WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE failed ERROR_QUIET)
  if(failed)
    set(commit "")
  endif()
  file(WRITE ${OUTPUT} "#include \"core/build_info.h\"

namespace formwork {

const char* const kVersion = \"${VERSION}\";
const char* const kCommit = \"${commit}\";
const char* const kCompiler = \"${COMPILER}\";
const char* const kBuildType = \"${BUILD_TYPE}\";

}  // namespace formwork
")
  return()
endif()

set(FORMWORK_VERSION ${PROJECT_VERSION} CACHE STRING "the version that the program and its runs name")
execute_process(COMMAND git -c safe.directory=* rev-parse --path-format=absolute --git-path logs/HEAD
                WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} OUTPUT_VARIABLE FORMWORK_GIT_HEAD
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT EXISTS "${FORMWORK_GIT_HEAD}")
  set(FORMWORK_GIT_HEAD "")
endif()
string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
string(STRIP "${CMAKE_BUILD_TYPE} (${CMAKE_CXX_FLAGS_${type}})" type)
if(FORMWORK_SANITIZE)
  string(APPEND type " sanitized: ${FORMWORK_SANITIZE}")
endif()
set(FORMWORK_BUILD_INFO ${CMAKE_BINARY_DIR}/generated/build_info.cpp)
add_custom_command(OUTPUT ${FORMWORK_BUILD_INFO}
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DOUTPUT=${FORMWORK_BUILD_INFO}
          -DVERSION=${FORMWORK_VERSION} "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
          "-DBUILD_TYPE=${type}" -P ${CMAKE_CURRENT_LIST_FILE}
  DEPENDS ${CMAKE_CURRENT_LIST_FILE} ${FORMWORK_GIT_HEAD}
  COMMENT "Writing build_info.cpp" VERBATIM)
set_source_files_properties(${FORMWORK_BUILD_INFO} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
target_sources(formwork_objects PRIVATE ${FORMWORK_BUILD_INFO})
