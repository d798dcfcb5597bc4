// Which of the instruction sets that src/kernels/simd was compiled for this processor runs.
#pragma once

#include <vector>

#include "kernels/simd/activation_rows.h"
#include "kernels/simd/attention_stream.h"
#include "kernels/simd/attention_tiles.h"
#include "kernels/simd/cross_entropy_rows.h"
#include "kernels/simd/matrix_pieces.h"
#include "kernels/simd/packed_rows.h"
#include "kernels/simd/squash_rows.h"

namespace formwork::cpu {

/// What was compiled for one instruction set.
struct SimdLevel {
  const AttentionTiles* attention;
  const AttentionStream* stream;
  const SquashRows* squash;
  const PackedProducts* packed;
  const ActivationRows* activation;
  const MatrixPieces* pieces;
  const CrossEntropyRows* cross_entropy;
};

/// The levels this processor can run, the widest first; never empty. FORMWORK_SIMD=base, avx2 or
/// avx512 in the environment leaves out the wider ones.
const std::vector<SimdLevel>& simd_levels();

}  // namespace formwork::cpu
