// Three passes: what every chunk adds to the state, all at once; the states before the chunks, one
// after another; and the outputs, all at once. The gradients are scans too, some from the end.
#include "kernels/cuda/matrix_scan.h"

#include <cmath>

#include "kernels/cuda/tiles.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kScanWarps = 4, kScanThreads = kScanWarps * kWarp, kScanPad = kScanChunk + 4;

template <class T>
__device__ __forceinline__ T* scan_rows(const Heads& all, int b, int h, int first) {
  return static_cast<T*>(all.data) + b * all.batch + h * all.head + first * all.row;
}

/// A chunk's rows as float32, zeros beyond; row r times factor(r).
template <class T, int width, class Factor>
__device__ __forceinline__ void load_wide(float* tile, const T* from, int64_t stride, int rows,
                                          int columns, Factor factor) {
  for (int i = threadIdx.x; i < kScanChunk * width; i += kScanThreads) {
    const int row = i / width, column = i % width;
    const bool real = row < rows && column < columns;
    tile[row * kPitch<float, width> + column] =
        real ? wide(from[row * stride + column]) * factor(row) : 0.0f;
  }
}

/// sums[t] = the sum of the logarithms of a chunk's gates up to t; tokens beyond the last keep all.
__device__ __forceinline__ void load_gates(float* sums, const MatrixScan& a, int head, int first) {
  if (threadIdx.x < kScanChunk) {
    float sum = 0.0f;
    const int count = min(static_cast<int>(threadIdx.x) + 1, a.tokens - first);
    if (a.log_gate) {
      const float* gates = a.log_gate + static_cast<int64_t>(head) * a.tokens + first;
      for (int t = 0; t < count; ++t) sum += gates[t];
    }
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
}

/// The state that a chunk adds and its whole decay; `reverse`: for the tokens before it.
template <class T, int width>
__global__ void __launch_bounds__(kScanThreads)
    scan_chunks_kernel(const MatrixScan a, bool reverse) {
  constexpr int pitch = kPitch<float, width>;
  float* across = reinterpret_cast<float*>(shared_memory());  // k, channels by tokens
  float* values = across + width * kScanPad;
  float* gates = values + kScanChunk * pitch;
  const int chunk = blockIdx.x, head = blockIdx.y, first = chunk * kScanChunk;
  const int b = head / a.heads, h = head % a.heads, rows = a.tokens - first;
  load_gates(gates, a, head, first);
  const float whole = gates[kScanChunk - 1];
  const T* keys = scan_rows<T>(a.k, b, h, first);
  for (int i = threadIdx.x; i < kScanChunk * width; i += kScanThreads) {
    const int row = i / width, column = i % width;
    const bool real = row < rows && column < a.width;
    across[column * kScanPad + row] =
        real ? wide(keys[row * a.k.row + column]) * expf(reverse ? gates[row] : whole - gates[row])
             : 0.0f;
  }
  load_wide<T, width>(values, scan_rows<T>(a.v, b, h, first), a.v.row, rows, a.value_width,
                      [](int) { return 1.0f; });
  __syncthreads();
  const int64_t place = static_cast<int64_t>(head) * gridDim.x + chunk;
  for (int own = threadIdx.x / kWarp * 16; own < width; own += kScanWarps * 16) {
    WarpTile<width / 8> state;
    multiply_columns<kScanChunk, kScanPad, pitch>(state, across + own * kScanPad, values);
    store_result(a.room + (place * a.width + own) * a.value_width, a.value_width, a.width - own,
                 a.value_width, state, 1.0f);
  }
  float* decays = a.room + static_cast<int64_t>(gridDim.y) * gridDim.x * a.width * a.value_width;
  if (threadIdx.x == 0) decays[place] = expf(whole);
}

/// What chunks add → the states before them; a thread takes one number of the state.
__global__ void __launch_bounds__(kScanThreads)
    scan_states_kernel(const MatrixScan a, int chunks, bool reverse) {
  const int64_t size = static_cast<int64_t>(a.width) * a.value_width;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kScanThreads + threadIdx.x;
  if (i >= size) return;
  const int64_t head = blockIdx.y;
  float* states = a.room + head * chunks * size + i;
  const float* decays = a.room + gridDim.y * chunks * size + head * chunks;
  float state = a.initial ? a.initial[head * size + i] : 0.0f;
  for (int c = 0; c < chunks; ++c) {
    const int chunk = reverse ? chunks - 1 - c : c;
    const float added = states[chunk * size];
    states[chunk * size] = state;
    state = fmaf(state, decays[chunk], added);
  }
  if (a.last) a.last[head * size + i] = state;
}

template <class T, int width>
__global__ void __launch_bounds__(kScanThreads)
    scan_outputs_kernel(const MatrixScan a, bool reverse) {
  constexpr int pitch = kPitch<float, width>;
  const auto plain = [](int) { return 1.0f; };
  float* q_tile = reinterpret_cast<float*>(shared_memory());
  float* k_tile = q_tile + kScanChunk * pitch;  // of the state first, then of k
  float* v_tile = k_tile + kScanChunk * pitch;
  float* gates = v_tile + kScanChunk * pitch;
  const int warp = threadIdx.x / kWarp, own = warp * 16;
  float* room = gates + kScanChunk + own * kScanPad;
  const int chunk = blockIdx.x, head = blockIdx.y, first = chunk * kScanChunk;
  const int b = head / a.heads, h = head % a.heads, rows = a.tokens - first;
  load_gates(gates, a, head, first);
  const float whole = gates[kScanChunk - 1];
  load_wide<T, width>(q_tile, scan_rows<T>(a.q, b, h, first), a.q.row, rows, a.width, plain);
  load_wide<T, width>(v_tile, scan_rows<T>(a.v, b, h, first), a.v.row, rows, a.value_width, plain);
  const float* state = a.room + (static_cast<int64_t>(head) * gridDim.x + chunk) *
                                    static_cast<int64_t>(a.width) * a.value_width;
  WarpTile<width / 8> y;
  constexpr int depth = width < kScanChunk ? width : kScanChunk;
  for (int from = 0; from < width; from += depth) {
    load_wide<float, width>(k_tile, state + static_cast<int64_t>(from) * a.value_width,
                            a.value_width, a.width - from, a.value_width, plain);
    __syncthreads();
    multiply_columns<depth, pitch, pitch>(y, q_tile + own * pitch + from, k_tile);
    __syncthreads();
  }
  load_wide<T, width>(k_tile, scan_rows<T>(a.k, b, h, first), a.k.row, rows, a.width, plain);
  __syncthreads();
  WarpTile<kScanChunk / 8> s;
  multiply_rows<width, pitch, pitch>(s, q_tile + own * pitch, k_tile);
  FORMWORK_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int i = own + row_in_tile(e);
    const float decay = expf(reverse ? whole - gates[i] : gates[i]);
    FORMWORK_UNROLL
    for (int n = 0; n < width / 8; ++n) y.x[n][e] *= decay;
    FORMWORK_UNROLL
    for (int n = 0; n < kScanChunk / 8; ++n) {
      const int j = column_in_tile(n, e);
      const bool meet = reverse ? i <= j : j <= i;
      s.x[n][e] *= meet ? expf(reverse ? gates[j] - gates[i] : gates[i] - gates[j]) : 0.0f;
    }
  }
  multiply_result<pitch>(y, s, v_tile, room);
  store_result(scan_rows<T>(a.y, b, h, first + own), a.y.row, rows - own, a.value_width, y, 1.0f);
}

/// to = q·dq - k·dk of every token, a warp each.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    scan_gate_slopes_kernel(const MatrixScan a, const MatrixScanGradients g) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kScanWarps + threadIdx.x / kWarp;
  if (row >= static_cast<int64_t>(a.batch) * a.heads * a.tokens) return;
  const int t = row % a.tokens, h = row / a.tokens % a.heads, b = row / a.tokens / a.heads;
  const T *q = scan_rows<T>(a.q, b, h, t), *k = scan_rows<T>(a.k, b, h, t);
  const T *dq = scan_rows<T>(g.q, b, h, t), *dk = scan_rows<T>(g.k, b, h, t);
  float sum = 0.0f;
  for (int c = threadIdx.x % kWarp; c < a.width; c += kWarp)
    sum += wide(q[c]) * wide(dq[c]) - wide(k[c]) * wide(dk[c]);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) g.log_gate[row] = sum;
}

/// Sums from every token to the last, in place; a warp takes a head, from its end.
__global__ void __launch_bounds__(kWarp) scan_gate_sums_kernel(const MatrixScan a, float* sums) {
  float* mine = sums + static_cast<int64_t>(blockIdx.x) * a.tokens;
  const int lane = threadIdx.x;
  float later = 0.0f;
  for (int done = 0; done < a.tokens; done += kWarp) {
    const int t = a.tokens - 1 - done - lane;
    float x = t >= 0 ? mine[t] : 0.0f;
    FORMWORK_UNROLL
    for (int step = 1; step < kWarp; step *= 2) {
      const float other = __shfl_up_sync(kAllLanes, x, step);
      if (lane >= step) x += other;
    }
    x += later;
    if (t >= 0) mine[t] = x;
    later = __shfl_sync(kAllLanes, x, kWarp - 1);
  }
}

template <class T, int width>
Status scan_of(const MatrixScan& a, bool reverse, Stream stream) {
  constexpr int tile = kScanChunk * kPitch<float, width>;
  constexpr size_t chunk_bytes = (width * kScanPad + tile + kScanChunk) * sizeof(float);
  constexpr size_t output_bytes =
      (3 * tile + kScanChunk + kScanWarps * 16 * kScanPad) * sizeof(float);
  const int heads = a.batch * a.heads, chunks = blocks_for(a.tokens, kScanChunk);
  const dim3 blocks(chunks, heads);
  Status status =
      launch({blocks, kScanThreads, chunk_bytes, stream}, scan_chunks_kernel<T, width>, a, reverse);
  if (status) return status;
  const int64_t size = static_cast<int64_t>(a.width) * a.value_width;
  const dim3 state_blocks(blocks_for(size, kScanThreads), heads);
  status = launch({state_blocks, kScanThreads, 0, stream}, scan_states_kernel, a, chunks, reverse);
  if (status) return status;
  return launch({blocks, kScanThreads, output_bytes, stream}, scan_outputs_kernel<T, width>, a,
                reverse);
}

/// y_t of the tokens up to t or, in `reverse`, from t on.
Status scan(const MatrixScan& a, bool reverse, Stream stream) {
  const int width = a.width > a.value_width ? a.width : a.value_width;
  return with_type(a.element, [&](auto type) {
    using T = decltype(type);
    if (width <= 32) return scan_of<T, 32>(a, reverse, stream);
    if (width <= 64) return scan_of<T, 64>(a, reverse, stream);
    return scan_of<T, kWidestState>(a, reverse, stream);
  });
}

}  // namespace

int64_t matrix_scan_room(const MatrixScan& a) {
  const int64_t chunks = static_cast<int64_t>(a.batch) * a.heads * blocks_for(a.tokens, kScanChunk);
  return chunks * (static_cast<int64_t>(a.width) * a.value_width + 1);
}

Status matrix_scan_forward(const MatrixScan& a, Stream stream) {
  return scan(a, false, stream);
}

Status matrix_scan_backward(const MatrixScan& a, const MatrixScanGradients& g, Stream stream) {
  MatrixScan part = a;
  part.initial = nullptr;
  part.last = nullptr;
  // y_i = Σ_{j<=i} d(i,j) (q_i·k_j) v_j, and its gradients have the same form.
  part.q = g.y, part.k = a.v, part.v = a.k, part.y = g.q;
  part.width = a.value_width, part.value_width = a.width;
  Status status = scan(part, false, stream);
  if (status) return status;
  part.q = a.v, part.k = g.y, part.v = a.q, part.y = g.k;
  status = scan(part, true, stream);
  if (status) return status;
  part.q = a.k, part.k = a.q, part.v = g.y, part.y = g.v;
  part.width = a.width, part.value_width = a.value_width;
  status = scan(part, true, stream);
  if (status || !g.log_gate) return status;
  const int64_t rows = static_cast<int64_t>(a.batch) * a.heads * a.tokens;
  status = with_type(a.element, [&](auto type) {
    return launch({dim3(blocks_for(rows, kScanWarps)), kScanThreads, 0, stream},
                  scan_gate_slopes_kernel<decltype(type)>, a, g);
  });
  if (status) return status;
  return launch({dim3(a.batch * a.heads), kWarp, 0, stream}, scan_gate_sums_kernel, a, g.log_gate);
}

}  // namespace formwork::FORMWORK_CUDA
