#include "kernels/simd_levels.h"

#include <cstdlib>
#include <string>

namespace formwork {

namespace simd_base {
extern const AttentionTiles kAttentionTiles;
}
#if defined(__x86_64__)
namespace simd_avx2 {
extern const AttentionTiles kAttentionTiles;
}
namespace simd_avx512 {
extern const AttentionTiles kAttentionTiles;
}
#endif

namespace cpu {
namespace {

std::vector<const AttentionTiles*> supported() {
  std::vector<const AttentionTiles*> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(&simd_avx512::kAttentionTiles);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(&simd_avx2::kAttentionTiles);
#endif
  found.push_back(&simd_base::kAttentionTiles);
  const char* wanted = std::getenv("FORMWORK_SIMD");
  while (wanted && found.size() > 1 && found.front()->name != std::string(wanted))
    found.erase(found.begin());
  return found;
}

}  // namespace

const std::vector<const AttentionTiles*>& attention_tiles() {
  static const std::vector<const AttentionTiles*> levels = supported();
  return levels;
}

}  // namespace cpu
}  // namespace formwork
