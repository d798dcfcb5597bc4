#include "kernels/cuda/embedding.h"

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kSegmentThreads = 128;

/// A thread sums n columns of one segment; several rows are on their way at once, since where they
/// are does not depend on what they hold.
template <class T, int n>
__global__ void __launch_bounds__(kSegmentThreads) segment_sums_kernel(const SegmentSums a) {
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kSegmentThreads + threadIdx.x) * n;
  if (column >= a.width) return;
  constexpr int at_once = 8;
  const T* gradient = static_cast<const T*>(a.gradient) + column;
  const int64_t segment = blockIdx.x, to = a.starts[segment + 1];
  int64_t i = a.starts[segment];
  float sum[n];
  FORMWORK_UNROLL
  for (int e = 0; e < n; ++e) sum[e] = 0.0f;
  for (; i + at_once <= to; i += at_once) {
    float x[at_once][n];
    FORMWORK_UNROLL
    for (int j = 0; j < at_once; ++j) load(x[j], gradient + a.order[i + j] * a.width);
    FORMWORK_UNROLL
    for (int j = 0; j < at_once; ++j) {
      FORMWORK_UNROLL
      for (int e = 0; e < n; ++e) sum[e] += x[j][e];
    }
  }
  for (; i < to; ++i) {
    float x[n];
    load(x, gradient + a.order[i] * a.width);
    FORMWORK_UNROLL
    for (int e = 0; e < n; ++e) sum[e] += x[e];
  }
  store_floats(a.rows + segment * a.width + column, sum);
}

}  // namespace

Status segment_sums(const SegmentSums& a, Stream stream) {
  const bool vectors = in_vectors(a.element, a.gradient, a.width) && in_vectors(a.element, a.rows);
  return with_type(a.element, [&](auto type) {
    using T = decltype(type);
    const auto sized = [&](auto n) {
      const dim3 blocks(a.segments, blocks_for(a.width, kSegmentThreads * n));
      return launch({blocks, kSegmentThreads, 0, stream},
                    segment_sums_kernel<T, decltype(n)::value>, a);
    };
    return vectors ? sized(std::integral_constant<int, kVector<T>>())
                   : sized(std::integral_constant<int, 1>());
  });
}

}  // namespace formwork::FORMWORK_CUDA
