// FlashAttention-2 (Dao 2023, arXiv 2307.08691) with a pass of its own for the gradient of q, so
// that no sum depends on which block comes first.
#include "kernels/cuda/attention.h"

#include <cmath>

#include "kernels/cuda/tiles.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kAttentionWarps = 4, kAttentionThreads = kAttentionWarps * kWarp;
constexpr int kOwnRows = 16 * kAttentionWarps;  // queries or keys that a block keeps

template <class T, int width>
struct AttentionTiles {
  static constexpr int pitch = kPitch<T, width>;
  static constexpr int keys = sizeof(T) == 2 ? 64 : 32;  // at a time, forward
  // At a time, backward, where registers hold two results of a block's rows.
  static constexpr int back = sizeof(T) == 2 && width <= 64 ? 64 : 32;
  static constexpr int own = kOwnRows * pitch;
  /// What the warps' results take on their way into a product; tensor cores need nothing.
  static constexpr size_t room(int columns) {
    return sizeof(T) == 4 ? kOwnRows * (columns + 4) * sizeof(float) : 0;
  }
  static constexpr size_t forward_bytes = (own + 4 * keys * pitch) * sizeof(T) + room(keys);
  static constexpr size_t query_bytes = (2 * own + 4 * back * pitch) * sizeof(T) + room(back);
  static constexpr size_t key_bytes =
      query_bytes + 4 * back * sizeof(float);  // and two rows, twice
};

template <class T>
__device__ __forceinline__ T* head_of(const Heads& all, int b, int h) {
  return static_cast<T*>(all.data) + b * all.batch + h * all.head;
}

/// Rows from `first` on of one head, for load_tile.
template <class T>
__device__ __forceinline__ Rows<T> rows_of(const Heads& all, int b, int h, int first, int end,
                                           int width, bool vectors) {
  return {head_of<T>(all, b, h) + first * all.row, all.row, end - first, width, vectors};
}

/// Which pairs of one batch and head may meet, and what is added to their scores.
struct Meeting {
  const Attention& a;
  const uint8_t* valid;
  const float* bias;

  __device__ __forceinline__ Meeting(const Attention& all, int b, int h)
      : a(all),
        valid(all.key_valid ? all.key_valid + static_cast<int64_t>(b) * all.keys : nullptr),
        bias(all.bias ? all.bias + b * all.bias_stride.batch + h * all.bias_stride.head : nullptr) {
  }

  /// Keys that the queries first .. last can see are in [from, to).
  __device__ __forceinline__ int keys_from(int first) const {
    return a.window ? max(0, first + a.keys - a.queries - a.window + 1) : 0;
  }
  __device__ __forceinline__ int keys_to(int last) const {
    return a.causal ? max(0, min(a.keys, last + a.keys - a.queries + 1)) : a.keys;
  }
  /// Queries that can see the keys first .. last are in [from, to).
  __device__ __forceinline__ int queries_from(int first) const {
    return a.causal ? max(0, first - a.keys + a.queries) : 0;
  }
  __device__ __forceinline__ int queries_to(int last) const {
    return a.window ? max(0, min(a.queries, last - a.keys + a.queries + a.window)) : a.queries;
  }
  /// Whether all of these meet, with nothing to add.
  __device__ __forceinline__ bool plain(int query, int queries, int key, int keys) const {
    return !valid && !bias && query + queries <= a.queries && key + keys <= a.keys &&
           key + keys <= keys_to(query) && key >= keys_from(query + queries - 1);
  }
  /// The base-2 logarithm of a weight, before it is divided by their sum.
  __device__ __forceinline__ float score(float product, int query, int key) const {
    const bool open = query < a.queries && key < a.keys && key < keys_to(query) &&
                      key >= keys_from(query) && (!valid || valid[key]);
    if (!open) return -INFINITY;
    product *= a.scale * kLog2E;
    if (bias) product += bias[query * a.bias_stride.query + key * a.bias_stride.key] * kLog2E;
    return product;
  }
};

/// Products q·k of a warp's tile → scores; rows are queries unless `across`.
template <bool across, int pieces>
__device__ __forceinline__ void scores_of(WarpTile<pieces>& s, const Meeting& meeting, int row,
                                          int column) {
  const int query = across ? column : row, key = across ? row : column;
  const bool plain = meeting.plain(query, across ? pieces * 8 : 16, key, across ? 16 : pieces * 8);
  const float factor = meeting.a.scale * kLog2E;
  FORMWORK_UNROLL
  for (int n = 0; n < pieces; ++n) {
    FORMWORK_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int i = row_in_tile(e), j = column_in_tile(n, e);
      s.x[n][e] = plain
                      ? s.x[n][e] * factor
                      : meeting.score(s.x[n][e], query + (across ? j : i), key + (across ? i : j));
    }
  }
}

/// Over the four lanes that share rows.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/// body(first row, place) for tiles of `rows` rows in [from, to), each fetched to one of two places
/// while the one before is worked on. All threads of the block take part.
template <int rows, class Fetch, class Body>
__device__ __forceinline__ void pass_by(int from, int to, const Fetch& fetch, const Body& body) {
  if (from < to) fetch(from, 0);
  end_copies();
  for (int row = from, place = 0; row < to; row += rows, place ^= 1) {
    if (row + rows < to) fetch(row + rows, place ^ 1);
    end_copies();
    await_copies<1>();
    __syncthreads();
    body(row, place);
    __syncthreads();
  }
}

/// The softmax so far of a warp's 16 queries: the largest score and the sum of weights beside it.
struct RunningSoftmax {
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};

  /// Scores become weights; `out` is brought to the new largest score.
  template <int pieces, int out_pieces>
  __device__ __forceinline__ void add(WarpTile<pieces>& s, WarpTile<out_pieces>& out) {
    FORMWORK_UNROLL
    for (int half = 0; half < 2; ++half) {
      float now = most[half];
      FORMWORK_UNROLL
      for (int n = 0; n < pieces; ++n)
        now = fmaxf(now, fmaxf(s.x[n][2 * half], s.x[n][2 * half + 1]));
      now = row_max(now);
      // As long as no key was seen every score is -inf, and so must stay.
      const float base = now == -INFINITY ? 0.0f : now;
      const float shrink = exp2f(most[half] - base);
      float total = 0.0f;
      FORMWORK_UNROLL
      for (int n = 0; n < pieces; ++n) {
        FORMWORK_UNROLL
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s.x[n][e] = exp2f(s.x[n][e] - base);
          total += s.x[n][e];
        }
      }
      sum[half] = sum[half] * shrink + total;
      most[half] = now;
      FORMWORK_UNROLL
      for (int n = 0; n < out_pieces; ++n) {
        out.x[n][2 * half] *= shrink;
        out.x[n][2 * half + 1] *= shrink;
      }
    }
  }
};

/// A block's own queries; the blocks with the most keys to see come first.
struct OwnQueries {
  const Meeting meeting;
  const int first, own;  // of the block, of this warp

  __device__ __forceinline__ OwnQueries(const Attention& a, int b, int h)
      : meeting(a, b, h),
        first(static_cast<int>(gridDim.x - 1 - blockIdx.x) * kOwnRows),
        own(first + static_cast<int>(threadIdx.x) / kWarp * 16) {}
};

/// pass_by with all keys and values that a block's own queries can see.
template <int width, int keys, class T, class Body>
__device__ __forceinline__ void keys_pass_by(const OwnQueries& is, int b, int h, T* k_tiles,
                                             T* v_tiles, bool vectors, const Body& body) {
  constexpr int stage = keys * kPitch<T, width>;
  const Attention& a = is.meeting.a;
  const int kv_head = h / (a.heads / a.kv_heads), last = min(is.first + kOwnRows, a.queries) - 1;
  const auto fetch = [&](int key, int place) {
    load_tile<width, keys>(k_tiles + place * stage,
                           rows_of<T>(a.k, b, kv_head, key, a.keys, a.width, vectors));
    load_tile<width, keys>(v_tiles + place * stage,
                           rows_of<T>(a.v, b, kv_head, key, a.keys, a.value_width, vectors));
  };
  pass_by<keys>(is.meeting.keys_from(is.first) / keys * keys, is.meeting.keys_to(last), fetch,
                body);
}

template <class T, int width>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_forward_kernel(const Attention a, bool vectors) {
  using Tiles = AttentionTiles<T, width>;
  using Scores = WarpTile<Tiles::keys / 8>;  // named here: GCC 12 fails at it in a lambda
  constexpr int keys = Tiles::keys, pitch = Tiles::pitch, stage = keys * pitch;
  T* q_tile = reinterpret_cast<T*>(shared_memory());
  T* k_tiles = q_tile + Tiles::own;
  T* v_tiles = k_tiles + 2 * stage;
  const int warp = threadIdx.x / kWarp, b = blockIdx.z, h = blockIdx.y;
  float* room = reinterpret_cast<float*>(v_tiles + 2 * stage) + warp * 16 * (keys + 4);
  const OwnQueries is(a, b, h);

  WarpTile<width / 8> out;
  RunningSoftmax softmax;
  load_tile<width, kOwnRows>(q_tile, rows_of<T>(a.q, b, h, is.first, a.queries, a.width, vectors));
  keys_pass_by<width, keys>(is, b, h, k_tiles, v_tiles, vectors, [&](int key, int place) {
    Scores s;
    multiply_rows<width, pitch, pitch>(s, q_tile + warp * 16 * pitch, k_tiles + place * stage);
    scores_of<false>(s, is.meeting, is.own, key);
    softmax.add(s, out);
    multiply_result<pitch>(out, s, v_tiles + place * stage, room);
  });
  await_copies<0>();
  T* to_rows = head_of<T>(a.out, b, h);
  FORMWORK_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(softmax.sum[half]);
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    FORMWORK_UNROLL
    for (int n = 0; n < width / 8; ++n) {
      out.x[n][2 * half] *= inverse;
      out.x[n][2 * half + 1] *= inverse;
    }
    const int query = is.own + row_in_tile(2 * half);
    if (threadIdx.x % 4 == 0 && query < a.queries)
      a.log_sum[(static_cast<int64_t>(b) * a.heads + h) * a.queries + query] =
          sum > 0.0f ? softmax.most[half] + log2f(sum) : -INFINITY;
  }
  store_result(to_rows + is.own * a.out.row, a.out.row, a.queries - is.own, a.value_width, out,
               1.0f);
}

/// along = gradient · out, a warp a row.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_along_kernel(const Attention a, const Heads gradient, float* along) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kAttentionWarps + threadIdx.x / kWarp;
  if (row >= static_cast<int64_t>(a.batch) * a.heads * a.queries) return;
  const int i = row % a.queries, h = row / a.queries % a.heads;
  const int b = row / a.queries / a.heads;
  const T* g = head_of<T>(gradient, b, h) + i * gradient.row;
  const T* out = head_of<T>(a.out, b, h) + i * a.out.row;
  float sum = 0.0f;
  for (int c = threadIdx.x % kWarp; c < a.value_width; c += kWarp)
    sum = fmaf(wide(g[c]), wide(out[c]), sum);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) along[row] = sum;
}

/// Scores and products gradient·v → weights and the gradients of scores (without the scale).
/// log_sum and along are those of number e of piece n.
template <int pieces, class LogSum, class Along>
__device__ __forceinline__ void score_gradients(WarpTile<pieces>& s, WarpTile<pieces>& slopes,
                                                LogSum log_sum, Along along) {
  FORMWORK_UNROLL
  for (int n = 0; n < pieces; ++n) {
    FORMWORK_UNROLL
    for (int e = 0; e < 4; ++e) {
      s.x[n][e] = exp2f(s.x[n][e] - log_sum(n, e));
      slopes.x[n][e] = s.x[n][e] * (slopes.x[n][e] - along(n, e));
    }
  }
}

/// A query without keys has the logarithm -inf; its weights must come out as 0.
__device__ __forceinline__ float divisor(float log_sum) {
  return log_sum == -INFINITY ? INFINITY : log_sum;
}

/// Gradients of a block's own keys and values: all queries of all heads that share them pass by.
template <class T, int width>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_key_gradients_kernel(const Attention a, const AttentionGradients g, bool vectors) {
  using Tiles = AttentionTiles<T, width>;
  using Scores = WarpTile<Tiles::back / 8>;
  constexpr int queries = Tiles::back, pitch = Tiles::pitch, stage = queries * pitch;
  T* k_tile = reinterpret_cast<T*>(shared_memory());
  T* v_tile = k_tile + Tiles::own;
  T* q_tiles = v_tile + Tiles::own;
  T* g_tiles = q_tiles + 2 * stage;
  float* log_sums = reinterpret_cast<float*>(g_tiles + 2 * stage);
  float* alongs = log_sums + 2 * queries;
  const int warp = threadIdx.x / kWarp, b = blockIdx.z, kv_head = blockIdx.y;
  float* room = alongs + 2 * queries + warp * 16 * (queries + 4);
  const int first = blockIdx.x * kOwnRows, own = first + warp * 16;
  const int groups = a.heads / a.kv_heads;

  WarpTile<width / 8> k_gradient, v_gradient;
  load_tile<width, kOwnRows>(k_tile, rows_of<T>(a.k, b, kv_head, first, a.keys, a.width, vectors));
  load_tile<width, kOwnRows>(v_tile,
                             rows_of<T>(a.v, b, kv_head, first, a.keys, a.value_width, vectors));
  for (int h = kv_head * groups; h < (kv_head + 1) * groups; ++h) {
    const Meeting meeting(a, b, h);
    const int64_t row = (static_cast<int64_t>(b) * a.heads + h) * a.queries;
    const int last = min(first + kOwnRows, a.keys) - 1;
    const int from = meeting.queries_from(first) / queries * queries, to = meeting.queries_to(last);
    const auto fetch = [&](int query, int place) {
      load_tile<width, queries>(q_tiles + place * stage,
                                rows_of<T>(a.q, b, h, query, a.queries, a.width, vectors));
      load_tile<width, queries>(g_tiles + place * stage,
                                rows_of<T>(g.out, b, h, query, a.queries, a.value_width, vectors));
      for (int i = threadIdx.x; i < queries; i += kAttentionThreads) {
        const bool real = query + i < a.queries;
        log_sums[place * queries + i] = real ? divisor(a.log_sum[row + query + i]) : INFINITY;
        alongs[place * queries + i] = real ? g.along[row + query + i] : 0.0f;
      }
    };
    pass_by<queries>(from, to, fetch, [&](int query, int place) {
      Scores s, slopes;
      multiply_rows<width, pitch, pitch>(s, k_tile + warp * 16 * pitch, q_tiles + place * stage);
      scores_of<true>(s, meeting, own, query);
      multiply_rows<width, pitch, pitch>(slopes, v_tile + warp * 16 * pitch,
                                         g_tiles + place * stage);
      const float* log_sum = log_sums + place * queries;
      const float* along = alongs + place * queries;
      score_gradients(
          s, slopes, [&](int n, int e) { return log_sum[column_in_tile(n, e)]; },
          [&](int n, int e) { return along[column_in_tile(n, e)]; });
      multiply_result<pitch>(v_gradient, s, g_tiles + place * stage, room);
      multiply_result<pitch>(k_gradient, slopes, q_tiles + place * stage, room);
    });
  }
  await_copies<0>();
  store_result(head_of<T>(g.k, b, kv_head) + own * g.k.row, g.k.row, a.keys - own, a.width,
               k_gradient, a.scale);
  store_result(head_of<T>(g.v, b, kv_head) + own * g.v.row, g.v.row, a.keys - own, a.value_width,
               v_gradient, 1.0f);
}

/// Gradients of a block's own queries: all keys pass by.
template <class T, int width>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_query_gradients_kernel(const Attention a, const AttentionGradients g, bool vectors) {
  using Tiles = AttentionTiles<T, width>;
  using Scores = WarpTile<Tiles::back / 8>;
  constexpr int keys = Tiles::back, pitch = Tiles::pitch, stage = keys * pitch;
  T* q_tile = reinterpret_cast<T*>(shared_memory());
  T* g_tile = q_tile + Tiles::own;
  T* k_tiles = g_tile + Tiles::own;
  T* v_tiles = k_tiles + 2 * stage;
  const int warp = threadIdx.x / kWarp, b = blockIdx.z, h = blockIdx.y;
  float* room = reinterpret_cast<float*>(v_tiles + 2 * stage) + warp * 16 * (keys + 4);
  const OwnQueries is(a, b, h);
  float log_sum[2], along[2];
  FORMWORK_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = is.own + row_in_tile(2 * half);
    const int64_t row = (static_cast<int64_t>(b) * a.heads + h) * a.queries + query;
    log_sum[half] = query < a.queries ? divisor(a.log_sum[row]) : INFINITY;
    along[half] = query < a.queries ? g.along[row] : 0.0f;
  }

  WarpTile<width / 8> gradient;
  load_tile<width, kOwnRows>(q_tile, rows_of<T>(a.q, b, h, is.first, a.queries, a.width, vectors));
  load_tile<width, kOwnRows>(g_tile,
                             rows_of<T>(g.out, b, h, is.first, a.queries, a.value_width, vectors));
  keys_pass_by<width, keys>(is, b, h, k_tiles, v_tiles, vectors, [&](int key, int place) {
    Scores s, slopes;
    multiply_rows<width, pitch, pitch>(s, q_tile + warp * 16 * pitch, k_tiles + place * stage);
    scores_of<false>(s, is.meeting, is.own, key);
    multiply_rows<width, pitch, pitch>(slopes, g_tile + warp * 16 * pitch, v_tiles + place * stage);
    score_gradients(
        s, slopes, [&](int, int e) { return log_sum[e / 2]; },
        [&](int, int e) { return along[e / 2]; });
    multiply_result<pitch>(gradient, slopes, k_tiles + place * stage, room);
  });
  await_copies<0>();
  store_result(head_of<T>(g.q, b, h) + is.own * g.q.row, g.q.row, a.queries - is.own, a.width,
               gradient, a.scale);
}

bool heads_in_vectors(Element element, const Heads& x, int width) {
  return in_vectors(element, x.data, x.batch, x.head, x.row, int64_t{width});
}

template <class T, int width>
Status forward_of(const Attention& a, bool vectors, Stream stream) {
  const dim3 blocks(blocks_for(a.queries, kOwnRows), a.heads, a.batch);
  return launch({blocks, kAttentionThreads, AttentionTiles<T, width>::forward_bytes, stream},
                attention_forward_kernel<T, width>, a, vectors);
}

template <class T, int width>
Status backward_of(const Attention& a, const AttentionGradients& g, bool vectors, Stream stream) {
  using Tiles = AttentionTiles<T, width>;
  const int64_t rows = static_cast<int64_t>(a.batch) * a.heads * a.queries;
  const dim3 row_blocks(blocks_for(rows, kAttentionWarps));
  Status status = launch({row_blocks, kAttentionThreads, 0, stream}, attention_along_kernel<T>, a,
                         g.out, g.along);
  if (status) return status;
  const dim3 key_blocks(blocks_for(a.keys, kOwnRows), a.kv_heads, a.batch);
  status = launch({key_blocks, kAttentionThreads, Tiles::key_bytes, stream},
                  attention_key_gradients_kernel<T, width>, a, g, vectors);
  if (status) return status;
  const dim3 query_blocks(blocks_for(a.queries, kOwnRows), a.heads, a.batch);
  return launch({query_blocks, kAttentionThreads, Tiles::query_bytes, stream},
                attention_query_gradients_kernel<T, width>, a, g, vectors);
}

/// Calls body with the narrowest tile that holds the rows.
template <class Body>
Status with_width(const Attention& a, Body body) {
  const int width = a.width > a.value_width ? a.width : a.value_width;
  if (width <= 32) return body(std::integral_constant<int, 32>());
  if (width <= 64) return body(std::integral_constant<int, 64>());
  return body(std::integral_constant<int, kWidestHead>());
}

}  // namespace

int64_t attention_shared_memory(const Attention& a) {
  return with_type(a.element, [&](auto type) {
    return with_width(a, [&](auto width) -> Status {
      using Tiles = AttentionTiles<decltype(type), decltype(width)::value>;
      return Tiles::key_bytes > Tiles::forward_bytes ? Tiles::key_bytes : Tiles::forward_bytes;
    });
  });
}

Status attention_forward(const Attention& a, Stream stream) {
  const bool vectors = heads_in_vectors(a.element, a.q, a.width) &&
                       heads_in_vectors(a.element, a.k, a.width) &&
                       heads_in_vectors(a.element, a.v, a.value_width);
  return with_type(a.element, [&](auto type) {
    return with_width(a, [&](auto width) {
      return forward_of<decltype(type), decltype(width)::value>(a, vectors, stream);
    });
  });
}

Status attention_backward(const Attention& a, const AttentionGradients& g, Stream stream) {
  const bool vectors = heads_in_vectors(a.element, a.q, a.width) &&
                       heads_in_vectors(a.element, a.k, a.width) &&
                       heads_in_vectors(a.element, a.v, a.value_width) &&
                       heads_in_vectors(a.element, g.out, a.value_width);
  return with_type(a.element, [&](auto type) {
    return with_width(a, [&](auto width) {
      return backward_of<decltype(type), decltype(width)::value>(a, g, vectors, stream);
    });
  });
}

}  // namespace formwork::FORMWORK_CUDA
