#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>

#include "kernels/channel_rows.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"
#include "kernels/scaled_tanh.h"
#include "kernels/simd_levels.h"

namespace formwork::cpu {
namespace {

void tanh_row(const float* x, float alpha, float* out, int64_t n) {
  simd_levels().front().squash->tanh(x, alpha, out, n);
}
void tanh_row(const double* x, double alpha, double* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = std::tanh(alpha * x[i]);
}

/// dx = alpha · weight · g (1 − t²); adds g t, g and g (1 − t²) x to the three sums.
template <class A>
void backward_row(const A* g, const A* x, const A* t, A alpha, const A* weight, A* dx, A* sums,
                  int64_t n) {
  using L = Lanes<A>;
  A *product = sums, *first = sums + n, *along = sums + 2 * n;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto dy = L::load(g + i), squashed = L::load(t + i);
    const auto inner = dy - dy * squashed * squashed;
    L::store(dx + i, inner * L::load(weight + i) * alpha);
    L::store(product + i, L::load(product + i) + dy * squashed);
    L::store(first + i, L::load(first + i) + dy);
    L::store(along + i, L::load(along + i) + inner * L::load(x + i));
  }
  for (; i < n; ++i) {
    const A inner = g[i] - g[i] * t[i] * t[i];
    dx[i] = inner * weight[i] * alpha;
    product[i] += g[i] * t[i];
    first[i] += g[i];
    along[i] += inner * x[i];
  }
}

template <class T>
void forward_rows(const at::Tensor& x, double alpha, const at::Tensor& weight,
                  const at::Tensor& bias, const ScaledTanhForward& result) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1);
  const T* from = x.const_data_ptr<T>();
  const A *by = weight.const_data_ptr<A>(), *more = bias.const_data_ptr<A>();
  A* squashed = result.squashed.data_ptr<A>();
  T* to = result.y.data_ptr<T>();
  parallel_rows(x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      tanh_row(read(from + r * n), static_cast<A>(alpha), squashed + r * n, n);
      cpu::combine<A>(squashed + r * n, by, nullptr, nullptr, more, write.place(to + r * n), n);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void backward_rows(const at::Tensor& g, const at::Tensor& x, const at::Tensor& squashed,
                   double alpha, const at::Tensor& weight, const at::Tensor& dx,
                   const at::Tensor& partials, int64_t chunk) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T *gradient = g.const_data_ptr<T>(), *from = x.const_data_ptr<T>();
  const A *t = squashed.const_data_ptr<A>(), *by = weight.const_data_ptr<A>();
  A* partial = partials.data_ptr<A>();
  T* to = dx.data_ptr<T>();
  parallel_rows(partials.size(0), 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_gradient(n);
    RowWriter<T> write(n);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        backward_row(read_gradient(gradient + r * n), read(from + r * n), t + r * n,
                     static_cast<A>(alpha), by, write.place(to + r * n), partial + 3 * c * n, n);
        write.finish(to + r * n);
      }
  });
}

}  // namespace

ScaledTanhForward scaled_tanh_forward(const at::Tensor& x, double alpha, const at::Tensor& weight,
                                      const at::Tensor& bias) {
  const ScaledTanhForward result{at::empty_like(x),
                                 at::empty(x.sizes(), x.options().dtype(accumulator_type(x)))};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "scaled_tanh",
                                  [&] { forward_rows<scalar_t>(x, alpha, weight, bias, result); });
  return result;
}

ScaledTanhBackward scaled_tanh_backward(const at::Tensor& g, const at::Tensor& x,
                                        const at::Tensor& squashed, double alpha,
                                        const at::Tensor& weight) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials = at::zeros({(rows + chunk - 1) / chunk, 3, n}, squashed.options());
  const at::Tensor dx = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "scaled_tanh", [&] {
    backward_rows<scalar_t>(g, x, squashed, alpha, weight, dx, partials, chunk);
  });
  const at::Tensor sums = partials.sum(0);
  return {dx, sums[2] * weight, sums[0], sums[1]};
}

}  // namespace formwork::cpu
