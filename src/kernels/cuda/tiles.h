// Tiles of rows in shared memory and their products by a warp: bfloat16 on tensor cores, float32 by
// fused multiply-adds, both with the tensor cores' layout of a result: lane 4g + t of the warp has
// of every 16x8 piece the numbers (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {

/// Elements from row to row of a tile: 16 bytes more than its width keep the banks apart.
template <class T, int width>
constexpr int kPitch = width + kVector<T>;

/// A 16 x 8 pieces result of a warp, 0 at first.
template <int pieces>
struct WarpTile {
  float x[pieces][4];
  __device__ __forceinline__ WarpTile() {
    FORMWORK_UNROLL
    for (int n = 0; n < pieces; ++n) {
      FORMWORK_UNROLL
      for (int e = 0; e < 4; ++e) x[n][e] = 0.0f;
    }
  }
};

/// Row and column of number e of piece n, for this lane.
__device__ __forceinline__ int row_in_tile(int e) {
  return static_cast<int>(threadIdx.x) % kWarp / 4 + e / 2 * 8;
}
__device__ __forceinline__ int column_in_tile(int n, int e) {
  return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + e % 2;
}

/// body(k, u, l): four numbers at a time of the two rows of a that this lane's results come from.
template <int depth, int a_pitch, class Body>
__device__ __forceinline__ void left_rows(const float* a, const Body& body) {
  const float* upper = a + row_in_tile(0) * a_pitch;
  const float* lower = upper + 8 * a_pitch;
  for (int k = 0; k < depth; k += 4) {
    float u[4], l[4];
    load(u, upper + k);
    load(l, lower + k);
    body(k, u, l);
  }
}

/// c += a bᵀ: a 16 rows and b 8 · pieces rows, both of `depth` numbers.
template <int depth, int a_pitch, int b_pitch, int pieces>
__device__ __forceinline__ void multiply_rows(WarpTile<pieces>& c, const Bfloat16* a,
                                              const Bfloat16* b) {
  const int lane = threadIdx.x % kWarp;
  FORMWORK_UNROLL
  for (int k = 0; k < depth; k += 16) {
    uint32_t left[4];
    load_matrices(left, a + lane % 16 * a_pitch + k + lane / 16 * 8);
    FORMWORK_UNROLL
    for (int n = 0; n < pieces; n += 2) {
      uint32_t right[4];
      load_matrices(right, b + (n * 8 + lane / 16 * 8 + lane % 8) * b_pitch + k + lane / 8 % 2 * 8);
      multiply_16x8x16(c.x[n], left, right[0], right[1]);
      multiply_16x8x16(c.x[n + 1], left, right[2], right[3]);
    }
  }
}
template <int depth, int a_pitch, int b_pitch, int pieces>
__device__ __forceinline__ void multiply_rows(WarpTile<pieces>& c, const float* a, const float* b) {
  left_rows<depth, a_pitch>(a, [&](int k, const float(&u)[4], const float(&l)[4]) {
    FORMWORK_UNROLL
    for (int n = 0; n < pieces; ++n) {
      FORMWORK_UNROLL
      for (int e = 0; e < 2; ++e) {
        float r[4];
        load(r, b + column_in_tile(n, e) * b_pitch + k);
        FORMWORK_UNROLL
        for (int i = 0; i < 4; ++i) {
          c.x[n][e] = fmaf(u[i], r[i], c.x[n][e]);
          c.x[n][2 + e] = fmaf(l[i], r[i], c.x[n][2 + e]);
        }
      }
    }
  });
}

/// c += a b: a 16 rows of `depth` numbers, b `depth` rows of 8 · pieces numbers.
template <int depth, int a_pitch, int b_pitch, int pieces>
__device__ __forceinline__ void multiply_columns(WarpTile<pieces>& c, const float* a,
                                                 const float* b) {
  left_rows<depth, a_pitch>(a, [&](int k, const float(&u)[4], const float(&l)[4]) {
    FORMWORK_UNROLL
    for (int i = 0; i < 4; ++i) {
      FORMWORK_UNROLL
      for (int n = 0; n < pieces; ++n) {
        float r[2];
        load(r, b + (k + i) * b_pitch + column_in_tile(n, 0));
        FORMWORK_UNROLL
        for (int e = 0; e < 2; ++e) {
          c.x[n][e] = fmaf(u[i], r[e], c.x[n][e]);
          c.x[n][2 + e] = fmaf(l[i], r[e], c.x[n][2 + e]);
        }
      }
    }
  });
}

/// c += a b with a a result of this warp and b 8 · depth_pieces rows of 8 · pieces numbers. `room`:
/// the warp's own 16 rows of kPitch<float, 8 · depth_pieces>, for float32 only.
template <int b_pitch, int depth_pieces, int pieces>
__device__ __forceinline__ void multiply_result(WarpTile<pieces>& c,
                                                const WarpTile<depth_pieces>& a, const Bfloat16* b,
                                                float*) {
  const int lane = threadIdx.x % kWarp;
  FORMWORK_UNROLL
  for (int k = 0; k < depth_pieces; k += 2) {
    uint32_t left[4];
    FORMWORK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float* pair = a.x[k + i / 2] + i % 2 * 2;
      left[i] = pack_bfloat16(pair[0], pair[1]);
    }
    FORMWORK_UNROLL
    for (int n = 0; n < pieces; n += 2) {
      uint32_t right[4];
      load_matrices_across(right, b + (k * 8 + lane % 16) * b_pitch + n * 8 + lane / 16 * 8);
      multiply_16x8x16(c.x[n], left, right[0], right[1]);
      multiply_16x8x16(c.x[n + 1], left, right[2], right[3]);
    }
  }
}
template <int b_pitch, int depth_pieces, int pieces>
__device__ __forceinline__ void multiply_result(WarpTile<pieces>& c,
                                                const WarpTile<depth_pieces>& a, const float* b,
                                                float* room) {
  constexpr int pitch = kPitch<float, depth_pieces * 8>;
  __syncwarp();
  FORMWORK_UNROLL
  for (int n = 0; n < depth_pieces; ++n) {
    FORMWORK_UNROLL
    for (int e = 0; e < 4; ++e) room[row_in_tile(e) * pitch + column_in_tile(n, e)] = a.x[n][e];
  }
  __syncwarp();
  multiply_columns<depth_pieces * 8, pitch, b_pitch>(c, room, b);
}

/// Rows of an array in device memory: `count` of them with `width` numbers each.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int count, width;
  bool vectors;  // 16 bytes at a time
};

/// The first `rows` rows to a tile, zeros where there are none, by all threads of the block; there
/// once the copies were awaited and a barrier passed.
template <int width, int rows, class T>
__device__ __forceinline__ void load_tile(T* tile, const Rows<T>& from) {
  constexpr int each = kVector<T>, pieces = width / each;
  for (int i = threadIdx.x; i < rows * pieces; i += blockDim.x) {
    const int row = i / pieces, column = i % pieces * each;
    T* to = tile + row * kPitch<T, width> + column;
    const T* source = from.data + row * from.stride + column;
    if (from.vectors && row < from.count && column < from.width) {
      copy_ahead(to, source);
      continue;
    }
    Vector<T, each> piece;
    FORMWORK_UNROLL
    for (int e = 0; e < each; ++e)
      piece.values[e] = row < from.count && column + e < from.width ? source[e] : narrow<T>(0.0f);
    *reinterpret_cast<Vector<T, each>*>(to) = piece;
  }
}

/// A warp's result to rows of device memory, times `factor`; rows and columns beyond are left out.
template <class T, int pieces>
__device__ __forceinline__ void store_result(T* to, int64_t stride, int rows, int width,
                                             const WarpTile<pieces>& c, float factor) {
  FORMWORK_UNROLL
  for (int n = 0; n < pieces; ++n) {
    FORMWORK_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int row = row_in_tile(e), column = column_in_tile(n, e);
      if (row < rows && column < width) to[row * stride + column] = narrow<T>(c.x[n][e] * factor);
    }
  }
}

}  // namespace formwork::FORMWORK_CUDA
