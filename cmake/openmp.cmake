# at::parallel_for stays on one thread in files compiled without OpenMP: only the kernels use it.
# They go without the precompiled header, which the flag would spoil, and include its text instead.
find_package(OpenMP COMPONENTS CXX)
file(GLOB kernels CONFIGURE_DEPENDS src/kernels/*_cpu.cpp)
if(OpenMP_CXX_FOUND)
  set_source_files_properties(${kernels} PROPERTIES
    SKIP_PRECOMPILE_HEADERS ON
    COMPILE_OPTIONS "${OpenMP_CXX_FLAGS};-include;${CMAKE_SOURCE_DIR}/src/pch.h")
  target_link_libraries(formwork_libraries INTERFACE ${OpenMP_CXX_LIBRARIES})
else()
  message(STATUS "OpenMP was not found: Formwork's own kernels run on one thread.")
endif()
