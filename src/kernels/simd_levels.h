// Which of the instruction sets that src/kernels/simd was compiled for this processor runs.
#pragma once

#include <vector>

#include "kernels/simd/attention_tiles.h"

namespace formwork::cpu {

/// The tile functions this processor can run, the widest first; never empty. FORMWORK_SIMD=base,
/// avx2 or avx512 in the environment leaves out the wider ones.
const std::vector<const AttentionTiles*>& attention_tiles();

}  // namespace formwork::cpu
