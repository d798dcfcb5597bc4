# src/kernels/simd/*.cpp is compiled once for every instruction set worth having; the program picks at
# run time. Those files use no libtorch and no templates of the standard library: code compiled for a
# newer processor must not be what the linker keeps for everybody.
set(FORMWORK_SIMD_LEVELS base)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(APPEND FORMWORK_SIMD_LEVELS avx2 avx512)
endif()
set(flags_avx2 -mavx2 -mfma)
set(flags_avx512 -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma)
file(GLOB sources CONFIGURE_DEPENDS src/kernels/simd/*.cpp)
foreach(level IN LISTS FORMWORK_SIMD_LEVELS)
  add_library(formwork_simd_${level} OBJECT ${sources})
  target_compile_options(formwork_simd_${level} PRIVATE -O3 ${flags_${level}})
  target_compile_definitions(formwork_simd_${level} PRIVATE FORMWORK_SIMD=simd_${level}
                             "FORMWORK_SIMD_NAME=\"${level}\"")
  target_link_libraries(formwork_simd_${level} PRIVATE formwork_options)
  set_target_properties(formwork_simd_${level} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endforeach()
