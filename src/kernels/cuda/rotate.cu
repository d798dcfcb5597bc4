#include "kernels/cuda/rotate.h"

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kRotateThreads = 256;

/// A thread turns n pairs, or copies 2n of the channels behind them; a row has `pieces` of these.
template <class T, int n>
__global__ void __launch_bounds__(kRotateThreads) rotate_kernel(const Rotation a, int pieces) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRotateThreads + threadIdx.x;
  const int64_t rows = a.sizes[0] * a.sizes[1] * a.sizes[2];
  if (index >= rows * pieces) return;
  const int64_t row = index / pieces;
  const int64_t i[3] = {row / a.sizes[2] / a.sizes[1], row / a.sizes[2] % a.sizes[1],
                        row % a.sizes[2]};
  int64_t from = 0, to = 0, table = 0;
  FORMWORK_UNROLL
  for (int d = 0; d < 3; ++d) {
    from += i[d] * a.x_stride[d];
    to += i[d] * a.y_stride[d];
    table += i[d] * a.table_stride[d];
  }
  const T* x = static_cast<const T*>(a.x) + from;
  T* y = static_cast<T*>(a.y) + to;
  const int pair = index % pieces * n;
  if (pair >= a.half) {
    const int first = 2 * pair, last = min(first + 2 * n, a.width);
    for (int c = first; c < last; ++c) y[c] = x[c];
    return;
  }
  float r[n], s[n], cosine[n], sine[n];
  load_floats(cosine, a.cosine + table + pair);
  load_floats(sine, a.sine + table + pair);
  if (a.interleaved) {
    float both[2][n];
    load(both[0], x + 2 * pair);
    load(both[1], x + 2 * pair + n);
    FORMWORK_UNROLL
    for (int e = 0; e < n; ++e) {
      r[e] = both[2 * e / n][2 * e % n];
      s[e] = both[(2 * e + 1) / n][(2 * e + 1) % n];
    }
  } else {
    load(r, x + pair);
    load(s, x + a.half + pair);
  }
  FORMWORK_UNROLL
  for (int e = 0; e < n; ++e) {
    const float z = a.backwards ? -sine[e] : sine[e], turned = r[e] * cosine[e] - s[e] * z;
    s[e] = s[e] * cosine[e] + r[e] * z;
    r[e] = turned;
  }
  if (a.interleaved) {
    float both[2][n];
    FORMWORK_UNROLL
    for (int e = 0; e < n; ++e) {
      both[2 * e / n][2 * e % n] = r[e];
      both[(2 * e + 1) / n][(2 * e + 1) % n] = s[e];
    }
    store(y + 2 * pair, both[0]);
    store(y + 2 * pair + n, both[1]);
  } else {
    store(y + pair, r);
    store(y + a.half + pair, s);
  }
}

}  // namespace

Status rotate(const Rotation& a, Stream stream) {
  const int64_t half = a.half, width = a.width;
  const bool vectors =
      in_vectors(a.element, a.x, a.x_stride[0], a.x_stride[1], a.x_stride[2], half, width) &&
      in_vectors(a.element, a.y, a.y_stride[0], a.y_stride[1], a.y_stride[2]) &&
      in_vectors(Element::float32, a.cosine, a.table_stride[0], a.table_stride[1],
                 a.table_stride[2]) &&
      in_vectors(Element::float32, a.sine);
  return with_type(a.element, [&](auto type) {
    using T = decltype(type);
    const auto sized = [&](auto n) {
      const int64_t pieces = blocks_for(blocks_for(width, 2), n);
      const int64_t rows = a.sizes[0] * a.sizes[1] * a.sizes[2];
      const dim3 blocks(blocks_for(rows * pieces, kRotateThreads));
      return launch({blocks, kRotateThreads, 0, stream}, rotate_kernel<T, decltype(n)::value>, a,
                    static_cast<int>(pieces));
    };
    return vectors ? sized(std::integral_constant<int, kVector<T>>())
                   : sized(std::integral_constant<int, 1>());
  });
}

}  // namespace formwork::FORMWORK_CUDA
