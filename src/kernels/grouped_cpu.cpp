#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "kernels/channel_rows.h"
#include "kernels/grouped.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

/// Σ a · b.
template <class A>
A dot(const A* a, const A* b, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s0{}, s1{};
  int64_t i = 0;
  for (; i + 2 * L::kCount <= n; i += 2 * L::kCount) {
    s0 += L::load(a + i) * L::load(b + i);
    s1 += L::load(a + i + L::kCount) * L::load(b + i + L::kCount);
  }
  A total = L::sum(s0 + s1);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

/// out = x · factor.
template <class A>
void times(const A* x, A factor, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) L::store(out + i, L::load(x + i) * factor);
  for (; i < n; ++i) out[i] = x[i] * factor;
}

/// out = (u − z · mean) · root.
template <class A>
void project(const A* u, const A* z, A mean, A root, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount)
    L::store(out + i, (L::load(u + i) - L::load(z + i) * mean) * root);
  for (; i < n; ++i) out[i] = (u[i] - z[i] * mean) * root;
}

/// One token's channels: where its groups are, and what they become.
template <class A>
struct Token {
  int64_t groups, width;  // of a group

  void measure(const A* x, A eps, A* roots) const {
    for (int64_t k = 0; k < groups; ++k) {
      const A* group = x + k * width;
      roots[k] = A(1) / std::sqrt(dot(group, group, width) / static_cast<A>(width) + eps);
    }
  }
  void scale(const A* x, const A* roots, A* z) const {
    for (int64_t k = 0; k < groups; ++k) times(x + k * width, roots[k], z + k * width, width);
  }
  void gradient(const A* u, const A* z, const A* roots, A* out) const {
    for (int64_t k = 0; k < groups; ++k) {
      const int64_t at = k * width;
      const A mean = dot(u + at, z + at, width) / static_cast<A>(width);
      project(u + at, z + at, mean, roots[k], out + at, width);
    }
  }
};

template <class T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <class T>
void sum_rows(const at::Tensor& g, const at::Tensor& x, const at::Tensor& valid,
              const Groups& groups, bool measured, const GroupedSums& result,
              const at::Tensor& partials, int64_t chunk) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const Token<A> token{groups.count, n / groups.count};
  const T *gradient = data_or_null<T>(g), *from = x.const_data_ptr<T>();
  const bool* real = data_or_null<bool>(valid);
  A *roots = result.roots.data_ptr<A>(), *partial = partials.data_ptr<A>();
  at::parallel_for(0, partials.size(0), 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    std::vector<RowReader<T>> read_gradient(kTogether, RowReader<T>(n));
    std::vector<A> scaled(kTogether * n);  // rows wait there until four are added together
    for (int64_t c = begin; c < end; ++c) {
      Adder<A> adder(nullptr, partial + 2 * c * n, partial + (2 * c + 1) * n, n);
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        if (real && !real[r]) continue;
        const A* row = read(from + r * n);
        A* own = roots + r * groups.count;
        if (!measured) token.measure(row, static_cast<A>(groups.eps), own);
        const int place = adder.count();
        A* z = scaled.data() + place * n;
        token.scale(row, own, z);
        adder.add(gradient ? read_gradient[place](gradient + r * n) : nullptr, z);
      }
      adder.finish();
    }
  });
}

/// Calls body(read row, its groups' factors, where the result goes) for every token.
template <class T, class Body>
void for_each_token(const at::Tensor& x, const at::Tensor& roots, const at::Tensor& y,
                    const Body& body) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), groups = roots.size(-1);
  const T* from = x.const_data_ptr<T>();
  const A* factors = roots.const_data_ptr<A>();
  T* to = y.data_ptr<T>();
  at::parallel_for(0, x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    RowWriter<T> write(n);
    std::vector<A> space(2 * n);
    RowReader<T> read_gradient(n);
    for (int64_t r = begin; r < end; ++r) {
      body(r, read(from + r * n), factors + r * groups, space.data(), read_gradient,
           write.place(to + r * n));
      write.finish(to + r * n);
    }
  });
}

}  // namespace

GroupedSums grouped_sums(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                         const at::Tensor& valid, const Groups& groups) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const auto kind = x.options().dtype(accumulator_type(x));
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials = at::zeros({(rows + chunk - 1) / chunk, 2, n}, kind);
  GroupedSums result;
  result.roots = roots.defined() ? roots : at::empty({rows, groups.count}, kind);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "grouped", [&] {
    sum_rows<scalar_t>(g, x, valid, groups, roots.defined(), result, partials, chunk);
  });
  const at::Tensor sums = partials.sum(0);
  result.product = sums[0];
  result.first = sums[1];
  return result;
}

at::Tensor grouped_scale(const at::Tensor& x, const at::Tensor& roots, const at::Tensor& factor,
                         const at::Tensor& shift) {
  const at::Tensor y = at::empty_like(x);
  const int64_t n = x.size(-1), groups = roots.size(-1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "grouped", [&] {
    using A = Accumulator<scalar_t>;
    const Token<A> token{groups, n / groups};
    const A *by = factor.const_data_ptr<A>(), *add = shift.const_data_ptr<A>();
    for_each_token<scalar_t>(x, roots, y,
                             [&](int64_t, const A* row, const A* own, A* z, auto&, A* out) {
                               token.scale(row, own, z);
                               combine<A>(z, by, nullptr, nullptr, add, out, n);
                             });
  });
  return y;
}

at::Tensor grouped_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                            const at::Tensor& g_factor, const at::Tensor& z_factor) {
  const at::Tensor dx = at::empty_like(x);
  const int64_t n = x.size(-1), groups = roots.size(-1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "grouped", [&] {
    using A = Accumulator<scalar_t>;
    const Token<A> token{groups, n / groups};
    const scalar_t* gradient = g.const_data_ptr<scalar_t>();
    const A *by = g_factor.const_data_ptr<A>(), *along = z_factor.const_data_ptr<A>();
    for_each_token<scalar_t>(x, roots, dx,
                             [&](int64_t r, const A* row, const A* own, A* z, auto& read, A* out) {
                               A* u = z + n;
                               token.scale(row, own, z);
                               combine<A>(read(gradient + r * n), by, z, along, nullptr, u, n);
                               token.gradient(u, z, own, out);
                             });
  });
  return dx;
}

}  // namespace formwork::cpu
