#include <ATen/Dispatch.h>

#include <algorithm>
#include <array>

#include "kernels/lanes.h"
#include "kernels/parallel_rows.h"
#include "kernels/rotate.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

constexpr int64_t kLeading = kMostRotatedDimensions - 1;
constexpr int64_t kElementsAtOnce = 16384;  // least work for a thread

/// Sizes and strides of all dimensions but the last, those with the largest steps through x first.
struct Walk {
  std::array<int64_t, kLeading> size, x, out, cosine, sine;
};

Walk make_walk(const at::Tensor& x, const at::Tensor& out, const at::Tensor& cosine,
               const at::Tensor& sine) {
  Walk walk;
  const int64_t leading = x.dim() - 1;
  std::array<int64_t, kLeading> order;
  for (int64_t i = 0; i < kLeading; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.begin() + leading,
                   [&](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  for (int64_t i = 0; i < kLeading; ++i) {
    // Missing dimensions come first, as dimensions of size 1.
    const int64_t d = i - (kLeading - leading);
    const bool there = d >= 0;
    const auto step = [&](const at::Tensor& t) { return there ? t.stride(order[d]) : 0; };
    walk.size[i] = there ? x.size(order[d]) : 1;
    walk.x[i] = step(x);
    walk.out[i] = step(out);
    walk.cosine[i] = step(cosine);
    walk.sine[i] = step(sine);
  }
  return walk;
}

template <class A>
void turn_halves(const A* x, const A* cosine, const A* sine, A sign, A* out, int64_t half) {
  using L = Lanes<A>;
  int64_t c = 0;
  for (; c + L::kCount <= half; c += L::kCount) {
    const auto r = L::load(x + c), s = L::load(x + half + c);
    const auto cos = L::load(cosine + c), sin = L::load(sine + c) * sign;
    L::store(out + c, r * cos - s * sin);
    L::store(out + half + c, s * cos + r * sin);
  }
  for (; c < half; ++c) {
    const A r = x[c], s = x[half + c], sin = sine[c] * sign;
    out[c] = r * cosine[c] - s * sin;
    out[half + c] = s * cosine[c] + r * sin;
  }
}

template <class A>
void turn_neighbours(const A* x, const A* cosine, const A* sine, A sign, A* out, int64_t half) {
  int64_t c = 0;
  if constexpr (std::is_same_v<A, float>) {
    using L = Lanes<float>;
    for (; c + 8 <= half; c += 8) {
      const auto low = L::load(x + 2 * c), high = L::load(x + 2 * c + 8);
      const auto r = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
      const auto s = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
      const auto cos = L::load(cosine + c), sin = L::load(sine + c) * sign;
      const auto p = r * cos - s * sin, q = s * cos + r * sin;
      L::store(out + 2 * c, __builtin_shufflevector(p, q, 0, 8, 1, 9, 2, 10, 3, 11));
      L::store(out + 2 * c + 8, __builtin_shufflevector(p, q, 4, 12, 5, 13, 6, 14, 7, 15));
    }
  }
  for (; c < half; ++c) {
    const A r = x[2 * c], s = x[2 * c + 1], sin = sine[c] * sign;
    out[2 * c] = r * cosine[c] - s * sin;
    out[2 * c + 1] = s * cosine[c] + r * sin;
  }
}

template <class T>
void rotate_rows(const T* x, const Accumulator<T>* cosine, const Accumulator<T>* sine, T* out,
                 const Walk& walk, int64_t width, int64_t half, Pairing pairing, bool backwards) {
  using A = Accumulator<T>;
  const A sign = backwards ? A(-1) : A(1);
  const int64_t inner = walk.size[kLeading - 1];
  int64_t outer = 1;
  for (int64_t i = 0; i < kLeading - 1; ++i) outer *= walk.size[i];
  const int64_t grain = std::max<int64_t>(1, kElementsAtOnce / std::max<int64_t>(1, inner * width));
  parallel_rows(outer, grain, [&](int64_t begin, int64_t end) {
    RowReader<T> read(width);
    RowWriter<T> write(width);
    for (int64_t o = begin; o < end; ++o) {
      int64_t rest = o, at_x = 0, at_out = 0, at_cosine = 0, at_sine = 0;
      for (int64_t i = kLeading - 2; i >= 0; --i) {
        const int64_t index = rest % walk.size[i];
        rest /= walk.size[i];
        at_x += index * walk.x[i];
        at_out += index * walk.out[i];
        at_cosine += index * walk.cosine[i];
        at_sine += index * walk.sine[i];
      }
      for (int64_t n = 0; n < inner; ++n) {
        T* to = out + at_out + n * walk.out[kLeading - 1];
        const A* from = read(x + at_x + n * walk.x[kLeading - 1]);
        const A* cos = cosine + at_cosine + n * walk.cosine[kLeading - 1];
        const A* sin = sine + at_sine + n * walk.sine[kLeading - 1];
        A* place = write.place(to);
        if (pairing == Pairing::half)
          turn_halves(from, cos, sin, sign, place, half);
        else
          turn_neighbours(from, cos, sin, sign, place, half);
        std::copy(from + 2 * half, from + width, place + 2 * half);
        write.finish(to);
      }
    }
  });
}

}  // namespace

void turn_row(float* row, const float* cosine, const float* sine, int64_t half, Pairing pairing,
              bool backwards) {
  const float sign = backwards ? -1.0f : 1.0f;
  if (pairing == Pairing::half)
    turn_halves(row, cosine, sine, sign, row, half);
  else
    turn_neighbours(row, cosine, sine, sign, row, half);
}

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                        Pairing pairing, bool backwards) {
  TORCH_CHECK(x.dim() >= 1 && x.dim() <= kMostRotatedDimensions, "rotate_pairs: ", x.dim(),
              " dimensions");
  const at::Tensor rows = x.stride(-1) == 1 ? x : x.contiguous();
  at::Tensor out = at::empty_like(rows);
  // A tensor of one column may keep any last stride.
  if (out.stride(-1) != 1) out = at::empty(rows.sizes(), rows.options());
  if (x.numel() == 0) return out;
  const int64_t half = cosine.size(-1);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = half;
  const auto table = [&](const at::Tensor& t) {
    return t.to(accumulator_type(x)).contiguous().expand(shape);
  };
  const at::Tensor cos = table(cosine), sin = table(sine);
  const Walk walk = make_walk(rows, out, cos, sin);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rotate_pairs", [&] {
    using A = Accumulator<scalar_t>;
    rotate_rows<scalar_t>(rows.data_ptr<scalar_t>(), cos.data_ptr<A>(), sin.data_ptr<A>(),
                          out.data_ptr<scalar_t>(), walk, x.size(-1), half, pairing, backwards);
  });
  return out;
}

}  // namespace formwork::cpu
