// A block takes a row: once for the sums, where the largest logit so far is carried along (Milakov,
// Gimelshein 2018, arXiv 1805.02867), and once more, mostly from the cache, for the gradient.
#include "kernels/cuda/cross_entropy.h"

#include <cmath>

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kClassThreads = 512, kClassWarps = kClassThreads / kWarp;

/// Σ exp(l - most), the largest l so far, and Σ l.
struct ClassSums {
  float most = -INFINITY, weights = 0.0f, logits = 0.0f;

  __device__ __forceinline__ void add(const ClassSums& other) {
    const float now = fmaxf(most, other.most);
    if (now == -INFINITY) return;
    weights = weights * expf(most - now) + other.weights * expf(other.most - now);
    most = now;
    logits += other.logits;
  }
};

/// For all threads, in one order.
__device__ __forceinline__ ClassSums block_total(ClassSums mine, float* room) {
  FORMWORK_UNROLL
  for (int step = kWarp / 2; step > 0; step /= 2) {
    ClassSums other;
    other.most = __shfl_xor_sync(kAllLanes, mine.most, step);
    other.weights = __shfl_xor_sync(kAllLanes, mine.weights, step);
    other.logits = __shfl_xor_sync(kAllLanes, mine.logits, step);
    mine.add(other);
  }
  const int warp = threadIdx.x / kWarp;
  if (threadIdx.x % kWarp == 0) {
    room[3 * warp] = mine.most;
    room[3 * warp + 1] = mine.weights;
    room[3 * warp + 2] = mine.logits;
  }
  __syncthreads();
  ClassSums all;
  for (int w = 0; w < kClassWarps; ++w) {
    ClassSums other;
    other.most = room[3 * w];
    other.weights = room[3 * w + 1];
    other.logits = room[3 * w + 2];
    all.add(other);
  }
  return all;
}

template <class T, int n>
__global__ void __launch_bounds__(kClassThreads) cross_entropy_kernel(const CrossEntropy a) {
  __shared__ float room[3 * kClassWarps];
  const int64_t row = blockIdx.x;
  const int64_t target = a.target[row];
  T* logits = static_cast<T*>(a.logits) + row * a.stride;
  if (target < 0) {
    if (threadIdx.x == 0) a.losses[row] = 0.0f;
    float none[n];
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) none[i] = 0.0f;
    for (int64_t c = threadIdx.x * n; a.differentiate && c < a.classes; c += kClassThreads * n)
      store(logits + c, none);
    return;
  }
  ClassSums sums;
  for (int64_t c = threadIdx.x * n; c < a.classes; c += kClassThreads * n) {
    float x[n];
    load(x, logits + c);
    ClassSums now;
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) now.most = fmaxf(now.most, x[i]);
    if (now.most == -INFINITY) continue;  // closed classes
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) {
      now.weights += expf(x[i] - now.most);
      now.logits += x[i];
    }
    sums.add(now);
  }
  const float chosen = wide(logits[target]);
  sums = block_total(sums, room);  // and from here on logits may be written
  const float log_sum = sums.most + logf(sums.weights), classes = a.classes;
  if (threadIdx.x == 0)
    a.losses[row] = log_sum - (1.0f - a.smoothing) * chosen -
                    a.smoothing * (sums.logits / classes) + a.z_loss * log_sum * log_sum;
  if (!a.differentiate) return;
  const float factor = (1.0f + 2.0f * a.z_loss * log_sum) / sums.weights;
  const float everywhere = a.smoothing / classes, there = 1.0f - a.smoothing;
  for (int64_t c = threadIdx.x * n; c < a.classes; c += kClassThreads * n) {
    float x[n];
    load(x, logits + c);
    FORMWORK_UNROLL
    for (int i = 0; i < n; ++i) {
      x[i] = expf(x[i] - sums.most) * factor - everywhere;
      if (c + i == target) x[i] -= there;
    }
    store(logits + c, x);
  }
}

}  // namespace

Status cross_entropy(const CrossEntropy& a, Stream stream) {
  const bool vectors = in_vectors(a.element, a.logits, a.stride, a.classes);
  return with_type(a.element, [&](auto type) {
    using T = decltype(type);
    const Launch how{dim3(a.rows), kClassThreads, 0, stream};
    return vectors ? launch(how, cross_entropy_kernel<T, kVector<T>>, a)
                   : launch(how, cross_entropy_kernel<T, 1>, a);
  });
}

}  // namespace formwork::FORMWORK_CUDA
