# The kernels are compiled once, for the program and for libformwork_kernels.so: the operators alone,
# for Python and other programs that have libtorch (torch.ops.load_library). at::parallel_for stays on
# one thread in files compiled without OpenMP, whose flag would spoil the shared precompiled header:
# they include its text instead.
file(GLOB kernel_sources CONFIGURE_DEPENDS src/kernels/*.cpp)
add_library(formwork_kernel_objects OBJECT ${kernel_sources})
formwork_unity(formwork_kernel_objects)
target_link_libraries(formwork_kernel_objects PRIVATE formwork_options)
# Vectors of 32 bytes are inlined everywhere, so how they would be passed does not matter.
target_compile_options(formwork_kernel_objects PRIVATE -Wno-psabi -include ${CMAKE_SOURCE_DIR}/src/pch.h)
set_target_properties(formwork_kernel_objects PROPERTIES POSITION_INDEPENDENT_CODE ON)
find_package(OpenMP COMPONENTS CXX)
if(FORMWORK_SANITIZE MATCHES thread)
  target_include_directories(formwork_kernel_objects BEFORE PRIVATE tests/support/threads)
elseif(OpenMP_CXX_FOUND)
  target_link_libraries(formwork_kernel_objects PRIVATE OpenMP::OpenMP_CXX)
  target_link_libraries(formwork_libraries INTERFACE ${OpenMP_CXX_LIBRARIES})
else()
  message(STATUS "OpenMP was not found: Formwork's own kernels run on one thread.")
endif()

set(kernel_objects $<TARGET_OBJECTS:formwork_kernel_objects>)

# The CUDA kernels and their bindings, where libtorch has CUDA and its compiler is here. They need no
# libtorch themselves. sm_80 brings code that the driver compiles for later GPUs.
find_library(FORMWORK_TORCH_CUDA torch_cuda PATHS ${TORCH_INSTALL_PREFIX}/lib NO_DEFAULT_PATH)
if(FORMWORK_TORCH_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    file(GLOB cuda_sources CONFIGURE_DEPENDS src/kernels/cuda/*.cu)
    add_library(formwork_cuda_objects OBJECT ${cuda_sources})
    target_include_directories(formwork_cuda_objects PRIVATE src)
    # CMake 3.25 knows no later standard for nvcc 13.
    set_target_properties(formwork_cuda_objects PROPERTIES POSITION_INDEPENDENT_CODE ON
                          CUDA_STANDARD 17 CUDA_ARCHITECTURES "80;90a-real")
    list(APPEND kernel_objects $<TARGET_OBJECTS:formwork_cuda_objects>)
    file(GLOB cuda_bindings CONFIGURE_DEPENDS src/kernels/cuda/*.cpp)
    target_sources(formwork_kernel_objects PRIVATE ${cuda_bindings})
    # Optimizers and constraints use kernels too.
    target_compile_definitions(formwork_options INTERFACE FORMWORK_CUDA_KERNELS=1)
  else()
    message(STATUS "libtorch has CUDA, but nvcc was not found: on a GPU the plain operators serve.")
  endif()
endif()
foreach(level IN LISTS FORMWORK_SIMD_LEVELS)
  list(APPEND kernel_objects $<TARGET_OBJECTS:formwork_simd_${level}>)
endforeach()
target_sources(formwork_objects INTERFACE ${kernel_objects})
# The one file of the core that kernels call; the rest they use of it is in headers.
add_library(formwork_kernels SHARED ${kernel_objects} src/core/processor.cpp)
target_link_libraries(formwork_kernels PRIVATE formwork_options)
set_target_properties(formwork_kernels PROPERTIES LINKER_LANGUAGE CXX)
