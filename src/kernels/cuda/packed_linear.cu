// Bound by the reading of the weight, which passes once, 16 bytes a lane; x comes from the cache.
#include "kernels/cuda/packed_linear.h"

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kPackedThreads = 128, kPackedWarps = kPackedThreads / kWarp;

__device__ __forceinline__ float wide(int8_t x) {
  return static_cast<float>(x);
}

/// A warp makes `outputs` columns of y, its lanes n weights at a time.
template <class W, int n, int rows, int outputs>
__global__ void __launch_bounds__(kPackedThreads) packed_linear_kernel(const PackedLinear a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * kPackedWarps + threadIdx.x / kWarp) * outputs;
  float sums[outputs][rows];
  FORMWORK_UNROLL
  for (int o = 0; o < outputs; ++o) {
    FORMWORK_UNROLL
    for (int r = 0; r < rows; ++r) sums[o][r] = 0.0f;
  }
  for (int64_t c = lane * n; c < a.in; c += kWarp * n) {
    Vector<W, n> weights[outputs];
    FORMWORK_UNROLL
    for (int o = 0; o < outputs; ++o) {
      const int64_t row = min(first + o, a.out - 1);  // beyond the last: read, not written
      weights[o] =
          *reinterpret_cast<const Vector<W, n>*>(static_cast<const W*>(a.weight) + row * a.in + c);
    }
    FORMWORK_UNROLL
    for (int r = 0; r < rows; ++r) {
      float x[n];
      load_floats(x, a.x + r * a.in + c);
      FORMWORK_UNROLL
      for (int o = 0; o < outputs; ++o) {
        FORMWORK_UNROLL
        for (int e = 0; e < n; ++e) sums[o][r] = fmaf(wide(weights[o].values[e]), x[e], sums[o][r]);
      }
    }
  }
  FORMWORK_UNROLL
  for (int o = 0; o < outputs; ++o) {
    const int64_t row = first + o;
    FORMWORK_UNROLL
    for (int r = 0; r < rows; ++r) {
      const float sum = warp_sum(sums[o][r]);
      if (lane != 0 || row >= a.out) continue;
      a.y[r * a.out + row] = sum * (a.scale ? a.scale[row] : 1.0f) + (a.bias ? a.bias[row] : 0.0f);
    }
  }
}

template <class W, int n, int rows>
Status packed_rows(const PackedLinear& a, Stream stream) {
  // One row leaves few blocks; more rows share what they read of x.
  constexpr int outputs = rows == 1 ? 1 : 2;
  const dim3 blocks(blocks_for(a.out, kPackedWarps * outputs));
  return launch({blocks, kPackedThreads, 0, stream}, packed_linear_kernel<W, n, rows, outputs>, a);
}

template <class W, int n, int rows = kFewRows>
Status with_rows(const PackedLinear& a, Stream stream) {
  if (a.rows == rows) return packed_rows<W, n, rows>(a, stream);
  if constexpr (rows > 1) return with_rows<W, n, rows - 1>(a, stream);
  return 0;  // no rows
}

}  // namespace

Status packed_linear(const PackedLinear& a, Stream stream) {
  const bool x_vectors = in_vectors(Element::float32, a.x, a.in);
  const bool aligned = x_vectors && reinterpret_cast<uintptr_t>(a.weight) % 16 == 0;
  if (a.scale)
    return aligned && a.in % 16 == 0 ? with_rows<int8_t, 16>(a, stream)
                                     : with_rows<int8_t, 1>(a, stream);
  return aligned && a.in % 8 == 0 ? with_rows<Bfloat16, 8>(a, stream)
                                  : with_rows<Bfloat16, 1>(a, stream);
}

}  // namespace formwork::FORMWORK_CUDA
