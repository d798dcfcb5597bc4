// One launch works on the chunks of as many tensors as fit into its arguments, so that a model of
// hundreds of small tensors does not cost hundreds of launches.
#include "kernels/cuda/optimizer.h"

#include <cmath>

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kStepThreads = 256, kStepWarps = kStepThreads / kWarp;
constexpr int64_t kChunk = 1 << 14;  // elements a block takes
constexpr int kArraysAtOnce = 48;    // kernel arguments are 4 KB at most

/// Arrays of one launch and the first block of each; those behind the last begin where it ends.
template <class Item>
struct Batch {
  Item items[kArraysAtOnce];
  int first_block[kArraysAtOnce + 1];
  int size = 0, blocks = 0;

  __device__ __forceinline__ int item_of(int block) const {
    int i = 0;
    while (i + 1 < size && first_block[i + 1] <= block) ++i;
    return i;
  }
};

/// Calls body(batch, blocks before it) for one batch after another.
template <class Item, class Body>
Status in_batches(const std::vector<Item>& items, Body body) {
  int64_t before = 0;
  Batch<Item> batch;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].count > 0) {
      batch.items[batch.size] = items[i];
      batch.first_block[batch.size++] = batch.blocks;
      batch.blocks += static_cast<int>(blocks_for(items[i].count, kChunk));
    }
    if (batch.size < kArraysAtOnce && i + 1 < items.size()) continue;
    const Status status = body(batch, before);
    if (status) return status;
    before += batch.blocks;
    batch = Batch<Item>();
  }
  return 0;
}

/// The part of an array that this block takes.
struct Chunk {
  int item;
  int64_t from, to;
  template <class Item>
  __device__ __forceinline__ explicit Chunk(const Batch<Item>& batch)
      : item(batch.item_of(blockIdx.x)),
        from((static_cast<int64_t>(blockIdx.x) - batch.first_block[item]) * kChunk),
        to(min(batch.items[item].count, from + kChunk)) {}
};

template <class T>
__device__ __forceinline__ bool aligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

template <class T>
__global__ void __launch_bounds__(kStepThreads)
    square_sums_kernel(const Batch<Array> batch, float* sums) {
  __shared__ float room[kStepWarps];
  const Chunk chunk(batch);
  const T* data = static_cast<const T*>(batch.items[chunk.item].data);
  constexpr int n = kVector<T>;
  float sum[1] = {0.0f};
  const int64_t whole = aligned(data) ? chunk.to / n * n : chunk.from;
  for (int64_t i = chunk.from + threadIdx.x * n; i < whole; i += kStepThreads * n) {
    float x[n];
    load(x, data + i);
    FORMWORK_UNROLL
    for (int e = 0; e < n; ++e) sum[0] = fmaf(x[e], x[e], sum[0]);
  }
  for (int64_t i = whole + threadIdx.x; i < chunk.to; i += kStepThreads)
    sum[0] = fmaf(wide(data[i]), wide(data[i]), sum[0]);
  block_sums(sum, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum[0];
}

/// One block; thread t adds the sums t, t + kStepThreads, ….
__global__ void __launch_bounds__(kStepThreads)
    norm_of_sums_kernel(const float* sums, int64_t count, float max_norm, float* result) {
  __shared__ double room[kStepThreads];
  double total = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kStepThreads) total += sums[i];
  room[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kStepThreads; ++i) total += room[i];
  constexpr double margin = 1e-6;
  const double norm = sqrt(total);
  // A gradient that is not finite stays as it is, for others to find.
  const bool stays = !(norm + margin > max_norm) || norm == INFINITY;
  result[0] = static_cast<float>(norm);
  result[1] = stays ? 1.0f : static_cast<float>(max_norm / (norm + margin));
}

template <class T>
__global__ void __launch_bounds__(kStepThreads)
    scale_arrays_kernel(const Batch<Array> batch, const float* factor_there) {
  const float factor = *factor_there;
  if (factor == 1.0f) return;
  const Chunk chunk(batch);
  T* data = static_cast<T*>(batch.items[chunk.item].data);
  constexpr int n = kVector<T>;
  const int64_t whole = aligned(data) ? chunk.to / n * n : chunk.from;
  for (int64_t i = chunk.from + threadIdx.x * n; i < whole; i += kStepThreads * n) {
    float x[n];
    load(x, data + i);
    FORMWORK_UNROLL
    for (int e = 0; e < n; ++e) x[e] *= factor;
    store(data + i, x);
  }
  for (int64_t i = whole + threadIdx.x; i < chunk.to; i += kStepThreads)
    data[i] = narrow<T>(wide(data[i]) * factor);
}

/// The numbers of a step as the kernel uses them.
struct AdamNumbers {
  float size, kept, beta2, fresh1, fresh2, root2, eps, l2;
};

template <class T, int n>
__device__ __forceinline__ void adam_elements(const AdamParameter& p, const AdamNumbers& a,
                                              float gradient_factor, int64_t i) {
  float value[n], g[n], mean[n], square[n], largest[n];
  load(value, p.value + i);
  load(g, static_cast<const T*>(p.gradient) + i);
  load(mean, p.mean + i);
  load(square, p.square + i);
  if (p.largest) load(largest, p.largest + i);
  FORMWORK_UNROLL
  for (int e = 0; e < n; ++e) {
    g[e] = fmaf(a.l2, value[e], g[e] * gradient_factor);
    mean[e] += a.fresh1 * (g[e] - mean[e]);
    square[e] = a.beta2 * square[e] + a.fresh2 * (g[e] * g[e]);
    if (p.largest) largest[e] = fmaxf(largest[e], square[e]);
    const float root = sqrtf(p.largest ? largest[e] : square[e]) / a.root2 + a.eps;
    value[e] = value[e] * a.kept - a.size * mean[e] / root;
  }
  store(p.value + i, value);
  store(p.mean + i, mean);
  store(p.square + i, square);
  if (p.largest) store(p.largest + i, largest);
  if (p.rounded) store(static_cast<Bfloat16*>(p.rounded) + i, value);
}

template <class T>
__global__ void __launch_bounds__(kStepThreads)
    adam_kernel(const Batch<AdamParameter> batch, const AdamNumbers a, const float* factor) {
  const Chunk chunk(batch);
  const AdamParameter& p = batch.items[chunk.item];
  const float gradient_factor = factor ? *factor : 1.0f;
  constexpr int n = 4;
  const bool vectors = aligned(p.value) && aligned(p.gradient) && aligned(p.mean) &&
                       aligned(p.square) && aligned(p.largest) && aligned(p.rounded);
  const int64_t whole = vectors ? chunk.to / n * n : chunk.from;
  for (int64_t i = chunk.from + threadIdx.x * n; i < whole; i += kStepThreads * n)
    adam_elements<T, n>(p, a, gradient_factor, i);
  for (int64_t i = whole + threadIdx.x; i < chunk.to; i += kStepThreads)
    adam_elements<T, 1>(p, a, gradient_factor, i);
}

Launch step_launch(int64_t blocks, Stream stream) {
  return {dim3(blocks), kStepThreads, 0, stream};
}

}  // namespace

int64_t gradient_norm_room(const std::vector<Array>& gradients) {
  int64_t blocks = 0;
  for (const Array& gradient : gradients) blocks += blocks_for(gradient.count, kChunk);
  return blocks;
}

Status gradient_norm(const std::vector<Array>& gradients, Element element, float max_norm,
                     float* room, float* result, Stream stream) {
  const Status status = in_batches(gradients, [&](const Batch<Array>& batch, int64_t before) {
    return with_type(element, [&](auto type) {
      return launch(step_launch(batch.blocks, stream), square_sums_kernel<decltype(type)>, batch,
                    room + before);
    });
  });
  if (status) return status;
  return launch(step_launch(1, stream), norm_of_sums_kernel, room, gradient_norm_room(gradients),
                max_norm, result);
}

Status scale_arrays(const std::vector<Array>& arrays, Element element, const float* factor,
                    Stream stream) {
  return in_batches(arrays, [&](const Batch<Array>& batch, int64_t) {
    return with_type(element, [&](auto type) {
      return launch(step_launch(batch.blocks, stream), scale_arrays_kernel<decltype(type)>, batch,
                    factor);
    });
  });
}

Status adam_step(const std::vector<AdamParameter>& parameters, const AdamStep& step,
                 Stream stream) {
  const auto steps = static_cast<double>(step.count);
  const AdamNumbers numbers{static_cast<float>(step.rate / (1.0 - std::pow(step.beta1, steps))),
                            static_cast<float>(step.l2 ? 1.0 : 1.0 - step.rate * step.decay),
                            static_cast<float>(step.beta2),
                            static_cast<float>(1.0 - step.beta1),
                            static_cast<float>(1.0 - step.beta2),
                            static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, steps))),
                            static_cast<float>(step.eps),
                            static_cast<float>(step.l2 ? step.decay : 0.0)};
  return in_batches(parameters, [&](const Batch<AdamParameter>& batch, int64_t) {
    return with_type(step.gradient_element, [&](auto type) {
      return launch(step_launch(batch.blocks, stream), adam_kernel<decltype(type)>, batch, numbers,
                    step.gradient_factor);
    });
  });
}

}  // namespace formwork::FORMWORK_CUDA
