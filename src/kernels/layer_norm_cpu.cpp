#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>

#include "kernels/lanes.h"
#include "kernels/layer_norm.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

/// out = x + y; returns Σ out.
template <class A>
A add_and_total(const A* x, const A* y, A* out, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s{};
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto v = L::load(x + i) + L::load(y + i);
    L::store(out + i, v);
    s += v;
  }
  A total = L::sum(s);
  for (; i < n; ++i) total += out[i] = x[i] + y[i];
  return total;
}

/// out = (x − mean) · inverse · weight + bias; weight and bias may be null.
template <class A>
void normalise(const A* x, A mean, A inverse, const A* weight, const A* bias, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto v = (L::load(x + i) - mean) * inverse;
    if (weight) v *= L::load(weight + i);
    if (bias) v += L::load(bias + i);
    L::store(out + i, v);
  }
  for (; i < n; ++i) {
    const A v = (x[i] - mean) * inverse * (weight ? weight[i] : A(1));
    out[i] = bias ? v + bias[i] : v;
  }
}

template <class A>
struct RowSlopes {
  A plain, along;  // Σ g · weight and Σ g · weight · z, z = (x − mean) · inverse
};

/// Adds g · z and g to the sums of the channels.
template <class A>
RowSlopes<A> slopes_of(const A* g, const A* x, A mean, A inverse, const A* weight, A* weight_sum,
                       A* bias_sum, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector plain{}, along{};
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto dy = L::load(g + i), z = (L::load(x + i) - mean) * inverse;
    const auto inner = weight ? dy * L::load(weight + i) : dy;
    plain += inner;
    along += inner * z;
    if (!weight_sum) continue;
    L::store(weight_sum + i, L::load(weight_sum + i) + dy * z);
    L::store(bias_sum + i, L::load(bias_sum + i) + dy);
  }
  RowSlopes<A> sums{L::sum(plain), L::sum(along)};
  for (; i < n; ++i) {
    const A z = (x[i] - mean) * inverse, inner = weight ? g[i] * weight[i] : g[i];
    sums.plain += inner;
    sums.along += inner * z;
    if (!weight_sum) continue;
    weight_sum[i] += g[i] * z;
    bias_sum[i] += g[i];
  }
  return sums;
}

/// out = inverse · (g · weight − plain − z · along) + more, with the sums divided by the channels;
/// more may be null.
template <class A>
void combine_slopes(const A* g, const A* x, A mean, A inverse, const A* weight, const A* more,
                    const RowSlopes<A>& sums, A* out, int64_t n) {
  using L = Lanes<A>;
  const A plain = sums.plain / static_cast<A>(n), along = sums.along / static_cast<A>(n);
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto z = (L::load(x + i) - mean) * inverse;
    auto v = L::load(g + i);
    if (weight) v *= L::load(weight + i);
    v = (v - plain - z * along) * inverse;
    L::store(out + i, more ? v + L::load(more + i) : v);
  }
  for (; i < n; ++i) {
    const A z = (x[i] - mean) * inverse, inner = weight ? g[i] * weight[i] : g[i];
    out[i] = (inner - plain - z * along) * inverse + (more ? more[i] : A(0));
  }
}

template <class T>
void layer_norm_rows(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                     const at::Tensor& bias, double eps, const LayerNormForward& result) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1);
  const T *from = x.const_data_ptr<T>(), *other = residual.const_data_ptr<T>();
  const A *by = data_or_null<A>(weight), *shift = data_or_null<A>(bias);
  T *to = result.y.data_ptr<T>(), *sums = result.sum.data_ptr<T>();
  A *means = result.mean.data_ptr<A>(), *inverses = result.inverse.data_ptr<A>();
  parallel_rows(x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_other(n);
    RowWriter<T> write(n), write_sum(n);
    for (int64_t r = begin; r < end; ++r) {
      T* sum = sums + r * n;
      A total =
          add_and_total(read(from + r * n), read_other(other + r * n), write_sum.place(sum), n);
      write_sum.finish(sum);
      const A* row = read(sum);
      if constexpr (!std::is_same_v<T, A>)
        total = moments(row, A(0), n).first;  // as it was rounded
      const A mean = total / static_cast<A>(n);
      const A variance = moments(row, mean, n).second / static_cast<A>(n);
      const A inverse = A(1) / std::sqrt(variance + static_cast<A>(eps));
      means[r] = mean;
      inverses[r] = inverse;
      normalise(row, mean, inverse, by, shift, write.place(to + r * n), n);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void layer_norm_slopes(const at::Tensor& gradient, const at::Tensor& sum_gradient,
                       const LayerNormForward& forward, const at::Tensor& weight,
                       const at::Tensor& dx, const at::Tensor& partials, int64_t chunk) {
  using A = Accumulator<T>;
  const int64_t n = dx.size(-1), rows = dx.numel() / n;
  const T *g = gradient.const_data_ptr<T>(), *more = data_or_null<T>(sum_gradient),
          *from = forward.sum.const_data_ptr<T>();
  const A *by = data_or_null<A>(weight), *means = forward.mean.const_data_ptr<A>(),
          *inverses = forward.inverse.const_data_ptr<A>();
  A* channels = data_or_null<A>(partials);
  T* to = dx.data_ptr<T>();
  parallel_rows((rows + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_gradient(n), read_more(n);
    RowWriter<T> write(n);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        const A *dy = read_gradient(g + r * n), *row = read(from + r * n);
        A* sums = channels ? channels + 2 * c * n : nullptr;
        const RowSlopes<A> slopes =
            slopes_of(dy, row, means[r], inverses[r], by, sums, sums ? sums + n : nullptr, n);
        combine_slopes(dy, row, means[r], inverses[r], by, more ? read_more(more + r * n) : nullptr,
                       slopes, write.place(to + r * n), n);
        write.finish(to + r * n);
      }
  });
}

}  // namespace

LayerNormForward add_layer_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                        const at::Tensor& weight, const at::Tensor& bias,
                                        double eps) {
  const at::TensorOptions wide = x.options().dtype(accumulator_type(x));
  const int64_t rows = x.numel() / x.size(-1);
  const LayerNormForward result{at::empty_like(x), at::empty_like(x), at::empty({rows}, wide),
                                at::empty({rows}, wide)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "add_layer_norm", [&] {
    layer_norm_rows<scalar_t>(x, residual, weight, bias, eps, result);
  });
  return result;
}

LayerNormBackward add_layer_norm_backward(const at::Tensor& gradient,
                                          const at::Tensor& sum_gradient,
                                          const LayerNormForward& forward,
                                          const at::Tensor& weight) {
  const at::Tensor& x = forward.sum;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  LayerNormBackward result{at::empty_like(x), {}, {}};
  at::Tensor partials;
  if (weight.defined()) partials = at::zeros({(rows + chunk - 1) / chunk, 2, n}, weight.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "add_layer_norm", [&] {
    layer_norm_slopes<scalar_t>(gradient, sum_gradient, forward, weight, result.x, partials, chunk);
  });
  if (!weight.defined()) return result;
  const at::Tensor sums = partials.sum(0);
  result.weight = sums[0];
  result.bias = sums[1];
  return result;
}

}  // namespace formwork::cpu
