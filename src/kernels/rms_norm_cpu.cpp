#include <ATen/Dispatch.h>

#include <cmath>
#include <tuple>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/parallel_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

template <class A>
void add(const A* x, const A* y, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) L::store(out + i, L::load(x + i) + L::load(y + i));
  for (; i < n; ++i) out[i] = x[i] + y[i];
}

/// out = x · factor · scale, scale may be null.
template <class A>
void multiply(const A* x, A factor, const A* scale, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  if (scale) {
    for (; i + L::kCount <= n; i += L::kCount)
      L::store(out + i, L::load(x + i) * factor * L::load(scale + i));
    for (; i < n; ++i) out[i] = x[i] * factor * scale[i];
  } else {
    for (; i + L::kCount <= n; i += L::kCount) L::store(out + i, L::load(x + i) * factor);
    for (; i < n; ++i) out[i] = x[i] * factor;
  }
}

/// Σ g · scale · x; adds g · x · root to scale_gradient.
template <class A>
A project(const A* g, const A* x, A root, const A* scale, A* scale_gradient, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s0{}, s1{};
  int64_t i = 0;
  if (scale) {
    const auto step = [&](int64_t at, typename L::Vector& sum) {
      const auto product = L::load(g + at) * L::load(x + at);
      sum += product * L::load(scale + at);
      L::store(scale_gradient + at, L::load(scale_gradient + at) + product * root);
    };
    for (; i + 2 * L::kCount <= n; i += 2 * L::kCount) {
      step(i, s0);
      step(i + L::kCount, s1);
    }
  } else {
    for (; i + 2 * L::kCount <= n; i += 2 * L::kCount) {
      s0 += L::load(g + i) * L::load(x + i);
      s1 += L::load(g + i + L::kCount) * L::load(x + i + L::kCount);
    }
  }
  A total = L::sum(s0 + s1);
  for (; i < n; ++i) {
    total += g[i] * x[i] * (scale ? scale[i] : A(1));
    if (scale) scale_gradient[i] += g[i] * x[i] * root;
  }
  return total;
}

/// The numbers of one row that its gradient is put together with.
template <class A>
struct Mix {
  A root, slope, shift;
};

/// out = root · (g · scale) − x · slope − shift [+ more]; scale and more may be null.
template <class A>
void combine(const A* g, const A* x, const A* scale, const A* more, const Mix<A>& mix, A* out,
             int64_t n) {
  const auto [root, slope, shift] = mix;
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto v = L::load(g + i) * root;
    if (scale) v *= L::load(scale + i);
    v -= L::load(x + i) * slope + shift;
    if (more) v += L::load(more + i);
    L::store(out + i, v);
  }
  for (; i < n; ++i)
    out[i] =
        g[i] * root * (scale ? scale[i] : A(1)) - (x[i] * slope + shift) + (more ? more[i] : A(0));
}

/// The numbers of a row that its backward pass needs, where they are kept.
template <class A>
struct RowNumbers {
  explicit RowNumbers(const RmsNormForward& result)
      : root(result.inverse_root.data_ptr<A>()),
        slope(result.slope.data_ptr<A>()),
        sum(data_or_null<A>(result.row_sum)) {}
  A *root, *slope, *sum;
};

template <class A>
void measure(const A* row, int64_t r, RmsForm form, A eps, const RowNumbers<A>& numbers,
             int64_t n) {
  const A channels = static_cast<A>(form == RmsForm::left_out ? n + 1 : n);
  A squares;
  if (form == RmsForm::left_out) {
    A total;
    std::tie(total, squares) = moments(row, A(0), n);
    numbers.sum[r] = total;
    squares += total * total;
  } else {
    squares = sum_of_squares(row, n);
  }
  const A mean = squares / channels;
  if (form == RmsForm::outside) {
    const A length = std::sqrt(mean);
    const A root = A(1) / (length + eps);
    numbers.root[r] = root;
    numbers.slope[r] = length > A(0) ? root * root / (length * channels) : A(0);
    return;
  }
  const A length = std::sqrt(form == RmsForm::at_least ? mean : mean + eps);
  // Where the least length serves, it does not depend on x.
  const bool constant = form == RmsForm::at_least && !(length > eps);
  const A root = A(1) / (constant ? eps : length);
  numbers.root[r] = root;
  numbers.slope[r] = constant ? A(0) : root * root * root / channels;
}

template <class T>
void forward_rows(const T* x, const T* residual, const Accumulator<T>* scale, double eps,
                  RmsForm form, T* y, T* sum, const RowNumbers<Accumulator<T>>& numbers,
                  int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  parallel_rows(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_more(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      const A* row = read(x + r * n);
      if (residual) {
        add(row, read_more(residual + r * n), write.place(sum + r * n), n);
        write.finish(sum + r * n);
        // What is normed is the sum as it was stored.
        row = read(sum + r * n);
      }
      measure(row, r, form, static_cast<A>(eps), numbers, n);
      multiply(row, numbers.root[r], scale, write.place(y + r * n), n);
      write.finish(y + r * n);
    }
  });
}

template <class T>
void backward_rows(const T* gradient, const T* more, const T* x,
                   const RowNumbers<Accumulator<T>>& numbers, const Accumulator<T>* scale, T* out,
                   Accumulator<T>* partials, int64_t rows, int64_t n, int64_t chunk) {
  using A = Accumulator<T>;
  const int64_t chunks = (rows + chunk - 1) / chunk;
  parallel_rows(chunks, 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read_gradient(n), read(n), read_more(n);
    RowWriter<T> write(n);
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        const A* g = read_gradient(gradient + r * n);
        const A* row = read(x + r * n);
        const A root = numbers.root[r];
        const A projection = project(g, row, root, scale, scale ? partials + c * n : nullptr, n);
        const A slope = numbers.slope[r] * projection;
        const Mix<A> mix{root, slope, numbers.sum ? slope * numbers.sum[r] : A(0)};
        combine(g, row, scale, more ? read_more(more + r * n) : nullptr, mix,
                write.place(out + r * n), n);
        write.finish(out + r * n);
      }
    }
  });
}

}  // namespace

RmsNormForward rms_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                const at::Tensor& scale, double eps, RmsForm form) {
  const int64_t n = x.size(-1);
  const int64_t rows = x.numel() / n;
  RmsNormForward result;
  result.y = at::empty_like(x);
  if (residual.defined()) result.sum = at::empty_like(x);
  result.inverse_root = at::empty({rows}, x.options().dtype(accumulator_type(x)));
  result.slope = at::empty_like(result.inverse_root);
  if (form == RmsForm::left_out) result.row_sum = at::empty_like(result.inverse_root);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rms_norm", [&] {
    using A = Accumulator<scalar_t>;
    forward_rows<scalar_t>(x.data_ptr<scalar_t>(), data_or_null<scalar_t>(residual),
                           data_or_null<A>(scale), eps, form, result.y.data_ptr<scalar_t>(),
                           data_or_null<scalar_t>(result.sum), RowNumbers<A>(result), rows, n);
  });
  return result;
}

RmsNormBackward rms_norm_backward(const at::Tensor& gradient, const at::Tensor& sum_gradient,
                                  const at::Tensor& x, const RmsNormForward& forward,
                                  const at::Tensor& scale) {
  const int64_t n = x.size(-1);
  const int64_t rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  RmsNormBackward result;
  result.x = at::empty_like(x);
  at::Tensor partials;
  if (scale.defined()) partials = at::zeros({(rows + chunk - 1) / chunk, n}, scale.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rms_norm", [&] {
    using A = Accumulator<scalar_t>;
    backward_rows<scalar_t>(gradient.data_ptr<scalar_t>(), data_or_null<scalar_t>(sum_gradient),
                            x.data_ptr<scalar_t>(), RowNumbers<A>(forward), data_or_null<A>(scale),
                            result.x.data_ptr<scalar_t>(), data_or_null<A>(partials), rows, n,
                            chunk);
  });
  if (scale.defined()) result.scale = partials.sum(0);
  return result;
}

}  // namespace formwork::cpu
