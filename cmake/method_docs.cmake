# Puts into the program what the method pages tell besides the registrations: the comments of the
# methods' sources (path:line:text) and the names of the folders with reference numbers.
file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} src/methods/*/*.cpp src/methods/*/*.h src/tasks/*.cpp)
set(lines ${CMAKE_BINARY_DIR}/generated/method_lines.txt)
list(TRANSFORM sources PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE paths)
add_custom_command(OUTPUT ${lines}
  COMMAND grep -nHE "^(///|class |struct |const Register<| +\"[a-z0-9_]+\",)" ${sources} > ${lines}
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DEPENDS ${paths}
  COMMENT "Collecting the comments of methods" VERBATIM)
formwork_embed(formwork_objects method_lines ${lines})

file(GLOB folders CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/tests/golden tests/golden/*)
list(JOIN folders "\n" folders)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/golden_folders.txt CONTENT "@folders@\n" @ONLY)
formwork_embed(formwork_objects golden_folders ${CMAKE_BINARY_DIR}/generated/golden_folders.txt)
