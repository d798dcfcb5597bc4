// One pass over memory: a row is read again where its numbers are needed again, by the threads that
// have just read it, and so comes from the nearest cache.
#include "kernels/cuda/norm.h"

#include <cmath>

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kNormThreads = 256, kNormWarps = kNormThreads / kWarp;
constexpr int kNarrowNorm = 2048;  // a warp takes a row up to here, a block from here on

/// What a row's threads add up, and where they find each other's sums.
template <bool whole_block>
struct NormRow {
  static constexpr int threads = whole_block ? kNormThreads : kWarp;
  static constexpr int at_once = kNormThreads / threads;
  __device__ __forceinline__ static int lane() { return threadIdx.x % threads; }
  __device__ __forceinline__ static int group() { return threadIdx.x / threads; }

  template <int count>
  __device__ __forceinline__ static void add_up(float (&x)[count], float* room) {
    if constexpr (whole_block) {
      block_sums(x, room);
      __syncthreads();
    } else {
      FORMWORK_UNROLL
      for (int i = 0; i < count; ++i) x[i] = warp_sum(x[i]);
    }
  }
};

/// Elements c .. c + n - 1 of what is normed.
template <class T, int n>
__device__ __forceinline__ void load_sum(float (&x)[n], const Norm& norm, int64_t at) {
  load(x, static_cast<const T*>(norm.x) + at);
  if (!norm.residual) return;
  float other[n];
  load(other, static_cast<const T*>(norm.residual) + at);
  FORMWORK_UNROLL
  for (int i = 0; i < n; ++i) x[i] = wide(narrow<T>(x[i] + other[i]));
}

template <int n>
__device__ __forceinline__ void load_or(float (&to)[n], const float* from, int at,
                                        float otherwise) {
  if (from) return load_floats(to, from + at);
  FORMWORK_UNROLL
  for (int i = 0; i < n; ++i) to[i] = otherwise;
}

struct RowStatistics {
  float mean, inverse, slope;
};

/// From Σ x² and Σ x, or for layer Σ (x - mean)² and the mean.
__device__ __forceinline__ RowStatistics statistics(const Norm& norm, float squares, float first) {
  const float channels = norm.width;
  if (norm.form == NormForm::layer)
    return {first, 1.0f / sqrtf(squares / channels + norm.eps), 0.0f};
  if (norm.form == NormForm::rms || norm.form == NormForm::crms) {
    const bool left_out = norm.form == NormForm::crms;
    const float all = left_out ? squares + first * first : squares;
    const float count = left_out ? channels + 1.0f : channels;
    const float inverse = 1.0f / sqrtf(all / count + norm.eps);
    return {0.0f, inverse, inverse * inverse * inverse / count};
  }
  const bool outside = norm.form == NormForm::outside;
  const float length = sqrtf(squares / channels);
  const float inverse = 1.0f / (outside ? length + norm.eps : fmaxf(length, norm.eps));
  const bool counts = length > (outside ? 0.0f : norm.eps);
  return {0.0f, inverse, counts ? inverse * inverse / (channels * length) : 0.0f};
}

template <class T, int n, bool whole_block>
__global__ void __launch_bounds__(kNormThreads) norm_forward_kernel(const Norm norm) {
  using Row = NormRow<whole_block>;
  __shared__ float room[2 * kNormWarps];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * Row::at_once + Row::group();
  const bool real = row < norm.rows;  // all threads go on: they meet in the sums
  const int64_t start = row * norm.width;
  const int end = real ? norm.width : 0;
  float sums[2] = {0.0f, 0.0f};
  for (int c = Row::lane() * n; c < end; c += Row::threads * n) {
    float x[n];
    load_sum<T>(x, norm, start + c);
    if (norm.residual) store(static_cast<T*>(norm.sum) + start + c, x);
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) {
      sums[0] = fmaf(x[i], x[i], sums[0]);
      sums[1] += x[i];
    }
  }
  Row::add_up(sums, room);
  float first = sums[1];
  if (norm.form == NormForm::layer) {
    first /= norm.width;
    float squares[1] = {0.0f};
    for (int c = Row::lane() * n; c < end; c += Row::threads * n) {
      float x[n];
      load_sum<T>(x, norm, start + c);
      FORMWORK_UNROLL
      for (int i = 0; i < n; ++i) squares[0] = fmaf(x[i] - first, x[i] - first, squares[0]);
    }
    Row::add_up(squares, room);
    sums[0] = squares[0];
  }
  const RowStatistics row_is = statistics(norm, sums[0], first);
  if (real && Row::lane() == 0) {
    norm.inverse[row] = row_is.inverse;
    if (norm.first) norm.first[row] = first;
    if (norm.slope) norm.slope[row] = row_is.slope;
  }
  for (int c = Row::lane() * n; c < end; c += Row::threads * n) {
    float x[n], scale[n], shift[n];
    load_sum<T>(x, norm, start + c);
    load_or(scale, norm.scale, c, 1.0f);
    load_or(shift, norm.shift, c, 0.0f);
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) x[i] = (x[i] - row_is.mean) * row_is.inverse * scale[i] + shift[i];
    store(static_cast<T*>(norm.y) + start + c, x);
  }
}

/// A block takes `strip` rows and sums over them what the gradients of scale and shift need.
template <class T, int n, bool whole_block>
__global__ void __launch_bounds__(kNormThreads, 3)
    norm_backward_kernel(const Norm norm, const NormGradients g, int64_t strip) {
  using Row = NormRow<whole_block>;
  __shared__ float room[2 * kNormWarps];
  float* totals = reinterpret_cast<float*>(shared_memory());  // [groups][scale, shift][D]
  float* scale_total = totals + Row::group() * 2 * norm.width;
  float* shift_total = scale_total + norm.width;
  const bool summed = g.scale || g.shift;
  if (summed)
    for (int c = threadIdx.x; c < Row::at_once * 2 * norm.width; c += kNormThreads)
      totals[c] = 0.0f;
  __syncthreads();
  const int64_t from = blockIdx.x * strip, to = min(norm.rows, from + strip);
  for (int64_t first = from; first < to; first += Row::at_once) {
    const int64_t row = first + Row::group(), start = row * norm.width;
    const int end = row < to ? norm.width : 0;
    const bool layer = norm.form == NormForm::layer;
    const float inverse = end ? norm.inverse[row] : 0.0f;
    const float mean = end && layer ? norm.first[row] : 0.0f;
    const float others = end && norm.form == NormForm::crms ? norm.first[row] : 0.0f;
    float sums[2] = {0.0f, 0.0f};  // of inner · (x - mean) and of inner, inner = gradient · scale
    for (int c = Row::lane() * n; c < end; c += Row::threads * n) {
      float x[n], y[n], scale[n];
      load(x, static_cast<const T*>(norm.x) + start + c);
      load(y, static_cast<const T*>(g.y) + start + c);
      load_or(scale, norm.scale, c, 1.0f);
      FORMWORK_UNROLL
      for (int i = 0; i < n; ++i) {
        sums[0] = fmaf(y[i] * scale[i], x[i] - mean, sums[0]);
        sums[1] += y[i] * scale[i];
      }
      if (!summed) continue;
      float scale_sum[n], shift_sum[n];
      load_floats(scale_sum, scale_total + c);
      load_floats(shift_sum, shift_total + c);
      FORMWORK_UNROLL
      for (int i = 0; i < n; ++i) {
        scale_sum[i] = fmaf(y[i], (x[i] - mean) * inverse, scale_sum[i]);
        shift_sum[i] += y[i];
      }
      store_floats(scale_total + c, scale_sum);
      store_floats(shift_total + c, shift_sum);
    }
    Row::add_up(sums, room);
    const float channels = norm.width;
    const float slope = !end    ? 0.0f
                        : layer ? inverse * inverse * inverse / channels
                                : norm.slope[row];
    const float along = slope * sums[0];
    const float level = layer ? inverse * sums[1] / channels : 0.0f;
    for (int c = Row::lane() * n; c < end; c += Row::threads * n) {
      float x[n], y[n], scale[n];
      load(x, static_cast<const T*>(norm.x) + start + c);
      load(y, static_cast<const T*>(g.y) + start + c);
      load_or(scale, norm.scale, c, 1.0f);
      FORMWORK_UNROLL
      for (int i = 0; i < n; ++i)
        y[i] = inverse * (y[i] * scale[i]) - (x[i] - mean + others) * along - level;
      if (g.sum) {
        float more[n];
        load(more, static_cast<const T*>(g.sum) + start + c);
        FORMWORK_UNROLL
        for (int i = 0; i < n; ++i) y[i] += more[i];
      }
      store(static_cast<T*>(g.x) + start + c, y);
    }
  }
  if (!summed) return;
  __syncthreads();
  for (int c = threadIdx.x; c < 2 * norm.width; c += kNormThreads) {
    float total = 0.0f;
    for (int i = 0; i < Row::at_once; ++i) total += totals[i * 2 * norm.width + c];
    const int which = c / norm.width, column = c % norm.width;
    g.partials[(static_cast<int64_t>(which) * kNormPartials + blockIdx.x) * norm.width + column] =
        total;
  }
}

constexpr int kTotalWarps = 8;

/// Columns of the partial sums, 32 a block; the first partial sums go to warp 0.
__global__ void __launch_bounds__(kTotalWarps* kWarp)
    norm_totals_kernel(const NormGradients g, int partials, int width) {
  __shared__ float room[kTotalWarps * kWarp];
  float* to = blockIdx.y == 0 ? g.scale : g.shift;
  if (!to) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int column = blockIdx.x * kWarp + lane;
  const float* from = g.partials + static_cast<int64_t>(blockIdx.y) * kNormPartials * width;
  const int each = blocks_for(partials, kTotalWarps);
  float total = 0.0f;
  if (column < width)
    for (int p = warp * each; p < min(partials, (warp + 1) * each); ++p)
      total += from[static_cast<int64_t>(p) * width + column];
  room[threadIdx.x] = total;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  for (int w = 1; w < kTotalWarps; ++w) total += room[w * kWarp + lane];
  to[column] = total;
}

template <class T, int n, bool whole_block>
Status norm_backward_of(const Norm& norm, const NormGradients& g, Stream stream) {
  const bool summed = g.scale || g.shift;
  const int64_t at_once = NormRow<whole_block>::at_once;
  const int64_t strip = blocks_for(blocks_for(norm.rows, kNormPartials), at_once) * at_once;
  const int64_t blocks = blocks_for(norm.rows, strip > 0 ? strip : 1);
  const size_t bytes = summed ? at_once * 2 * norm.width * sizeof(float) : 0;
  const Status status = launch({dim3(blocks), kNormThreads, bytes, stream},
                               norm_backward_kernel<T, n, whole_block>, norm, g, strip);
  if (status || !summed) return status;
  return launch({dim3(blocks_for(norm.width, kWarp), 2), kTotalWarps * kWarp, 0, stream},
                norm_totals_kernel, g, static_cast<int>(blocks), norm.width);
}

/// Calls body(T{}, vector length, whether a block takes a row).
template <class Body>
Status with_norm(const Norm& norm, bool vectors, int narrow_rows, Body body) {
  return with_type(norm.element, [&](auto type) {
    using T = decltype(type);
    const auto sized = [&](auto n) {
      return norm.width <= narrow_rows ? body(type, n, std::false_type())
                                       : body(type, n, std::true_type());
    };
    return vectors ? sized(std::integral_constant<int, kVector<T>>())
                   : sized(std::integral_constant<int, 1>());
  });
}

}  // namespace

Status norm_forward(const Norm& norm, Stream stream) {
  const auto aligned = [&](const void* data) {
    return in_vectors(norm.element, data, int64_t{norm.width});
  };
  const bool vectors = aligned(norm.x) && aligned(norm.residual) && aligned(norm.sum) &&
                       aligned(norm.y) && aligned(norm.scale) && aligned(norm.shift);
  return with_norm(norm, vectors, kNarrowNorm, [&](auto type, auto n, auto whole) {
    const int64_t blocks = blocks_for(norm.rows, NormRow<decltype(whole)::value>::at_once);
    return launch({dim3(blocks), kNormThreads, 0, stream},
                  norm_forward_kernel<decltype(type), decltype(n)::value, decltype(whole)::value>,
                  norm);
  });
}

Status norm_backward(const Norm& norm, const NormGradients& g, Stream stream) {
  const auto aligned = [&](const void* data) {
    return in_vectors(norm.element, data, int64_t{norm.width});
  };
  const bool vectors =
      aligned(norm.x) && aligned(g.y) && aligned(g.sum) && aligned(g.x) && aligned(norm.scale);
  // Narrower than forward: every row of a block has its own sums in shared memory.
  return with_norm(norm, vectors, kNarrowNorm / 2, [&](auto type, auto n, auto whole) {
    return norm_backward_of<decltype(type), decltype(n)::value, decltype(whole)::value>(norm, g,
                                                                                        stream);
  });
}

}  // namespace formwork::FORMWORK_CUDA
