#include "kernels/simd_levels.h"

#include <cstdlib>
#include <string>

#include "kernels/parallel_rows.h"

namespace formwork {

namespace simd_base {
extern const AttentionTiles kAttentionTiles;
extern const AttentionStream kAttentionStream;
extern const SquashRows kSquashRows;
extern const PackedProducts kPackedProducts;
}  // namespace simd_base
#if defined(__x86_64__)
namespace simd_avx2 {
extern const AttentionTiles kAttentionTiles;
extern const AttentionStream kAttentionStream;
extern const SquashRows kSquashRows;
extern const PackedProducts kPackedProducts;
}  // namespace simd_avx2
namespace simd_avx512 {
extern const AttentionTiles kAttentionTiles;
extern const AttentionStream kAttentionStream;
extern const SquashRows kSquashRows;
extern const PackedProducts kPackedProducts;
}  // namespace simd_avx512
#endif

namespace cpu {
namespace {

std::vector<SimdLevel> supported() {
  std::vector<SimdLevel> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back({&simd_avx512::kAttentionTiles, &simd_avx512::kAttentionStream,
                     &simd_avx512::kSquashRows, &simd_avx512::kPackedProducts});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back({&simd_avx2::kAttentionTiles, &simd_avx2::kAttentionStream,
                     &simd_avx2::kSquashRows, &simd_avx2::kPackedProducts});
#endif
  found.push_back({&simd_base::kAttentionTiles, &simd_base::kAttentionStream,
                   &simd_base::kSquashRows, &simd_base::kPackedProducts});
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
