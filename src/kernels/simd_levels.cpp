#include "kernels/simd_levels.h"

#include <cstdlib>
#include <string>

#include "kernels/parallel_rows.h"

namespace formwork {

// What src/kernels/simd defines once for every instruction set.
#define FORMWORK_SIMD_TABLES(set)                                                   \
  namespace set {                                                                   \
  extern const AttentionTiles kAttentionTiles;                                      \
  extern const AttentionStream kAttentionStream;                                    \
  extern const SquashRows kSquashRows;                                              \
  extern const PackedProducts kPackedProducts;                                      \
  extern const ActivationRows kActivationRows;                                      \
  extern const MatrixPieces kMatrixPieces;                                          \
  extern const CrossEntropyRows kCrossEntropyRows;                                  \
  const cpu::SimdLevel kLevel{&kAttentionTiles,  &kAttentionStream, &kSquashRows,   \
                              &kPackedProducts,  &kActivationRows,  &kMatrixPieces, \
                              &kCrossEntropyRows};                                  \
  }

FORMWORK_SIMD_TABLES(simd_base)
#if defined(__x86_64__)
FORMWORK_SIMD_TABLES(simd_avx2)
FORMWORK_SIMD_TABLES(simd_avx512)
#endif

namespace cpu {
namespace {

std::vector<SimdLevel> supported() {
  std::vector<SimdLevel> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(simd_avx512::kLevel);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(simd_avx2::kLevel);
#endif
  found.push_back(simd_base::kLevel);
  const char* wanted = std::getenv("FORMWORK_SIMD");
  while (wanted && found.size() > 1 && found.front().attention->name != std::string(wanted))
    found.erase(found.begin());
  return found;
}

}  // namespace

const std::vector<SimdLevel>& simd_levels() {
  static const std::vector<SimdLevel> levels = supported();
  return levels;
}

bool has_avx2() {
  static const bool has = simd_levels().size() > 1;  // every level above the baseline includes it
  return has;
}

}  // namespace cpu
}  // namespace formwork
