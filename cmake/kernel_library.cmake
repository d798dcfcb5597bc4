# libformwork_kernels.so: the operators alone, for Python and other programs that have libtorch
# (torch.ops.load_library). The program links the same sources.
file(GLOB kernel_sources CONFIGURE_DEPENDS src/kernels/*.cpp)
add_library(formwork_kernels SHARED ${kernel_sources})
target_link_libraries(formwork_kernels PRIVATE formwork_options)
target_compile_options(formwork_kernels PRIVATE -include ${CMAKE_SOURCE_DIR}/src/pch.h)
foreach(level IN LISTS FORMWORK_SIMD_LEVELS)
  target_sources(formwork_kernels PRIVATE $<TARGET_OBJECTS:formwork_simd_${level}>)
endforeach()
