#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>

#include "kernels/channel_rows.h"
#include "kernels/grouped.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

/// Σ x².
template <class A>
A squares(const A* x, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s0{}, s1{};
  int64_t i = 0;
  for (; i + 2 * L::kCount <= n; i += 2 * L::kCount) {
    const auto a = L::load(x + i), b = L::load(x + i + L::kCount);
    s0 += a * a;
    s1 += b * b;
  }
  A total = L::sum(s0 + s1);
  for (; i < n; ++i) total += x[i] * x[i];
  return total;
}

/// out = x · root · factor + shift.
template <class A>
void scale(const A* x, A root, const A* factor, const A* shift, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount)
    L::store(out + i, L::load(x + i) * root * L::load(factor + i) + L::load(shift + i));
  for (; i < n; ++i) out[i] = x[i] * root * factor[i] + shift[i];
}

/// u = g · g_factor + z · z_factor with z = x · root; returns Σ u z.
template <class A>
A gather(const A* g, const A* x, A root, const A* g_factor, const A* z_factor, A* u, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector sum{};
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto z = L::load(x + i) * root;
    const auto v = L::load(g + i) * L::load(g_factor + i) + z * L::load(z_factor + i);
    L::store(u + i, v);
    sum += v * z;
  }
  A total = L::sum(sum);
  for (; i < n; ++i) {
    const A z = x[i] * root;
    u[i] = g[i] * g_factor[i] + z * z_factor[i];
    total += u[i] * z;
  }
  return total;
}

/// out = u · root − x · slope.
template <class A>
void project(const A* u, const A* x, A root, A slope, A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount)
    L::store(out + i, L::load(u + i) * root - L::load(x + i) * slope);
  for (; i < n; ++i) out[i] = u[i] * root - x[i] * slope;
}

/// Adds Σ left · z over four rows or one; without g, left = z. `first` gets Σ left.
template <class A, bool kOwnSquare, bool kFour>
void add_scaled(const Rows<A>& g, const Rows<A>& x, const std::array<A, kTogether>& roots,
                A* product, A* first, int64_t n) {
  using L = Lanes<A>;
  const std::array<A, kTogether> by = roots;  // no store below can change a copy
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto p = L::load(product + i), f = L::load(first + i);
    const auto step = [&](int r) {
      const auto z = L::load(x[r] + i) * by[r];
      const auto left = kOwnSquare ? z : L::load(g[r] + i);
      p += left * z;
      f += left;
    };
    step(0);
    if constexpr (kFour) {
      step(1);
      step(2);
      step(3);
    }
    L::store(product + i, p);
    L::store(first + i, f);
  }
  for (; i < n; ++i)
    for (int r = 0; r < (kFour ? kTogether : 1); ++r) {
      const A z = x[r][i] * roots[r], left = kOwnSquare ? z : g[r][i];
      product[i] += left * z;
      first[i] += left;
    }
}

/// Collects rows with their groups' factors and adds them four at a time.
template <class A>
class ScaledAdder {
 public:
  ScaledAdder(int64_t groups, int64_t width, A* product, A* first)
      : groups_(groups), width_(width), product_(product), first_(first) {}
  int count() const { return count_; }
  void add(const A* g, const A* x, const A* roots) {
    g_[count_] = g;
    x_[count_] = x;
    roots_[count_] = roots;
    if (++count_ < kTogether) return;
    run<true>(0);
    count_ = 0;
  }
  void finish() {
    for (int r = 0; r < count_; ++r) run<false>(r);
    count_ = 0;
  }

 private:
  /// The four rows, or the row `from`.
  template <bool kFour>
  void run(int from) {
    for (int64_t k = 0; k < groups_; ++k) {
      const int64_t at = k * width_;
      Rows<A> g{}, x{};
      std::array<A, kTogether> roots{};
      for (int r = 0; r < (kFour ? kTogether : 1); ++r) {
        g[r] = g_[from + r] ? g_[from + r] + at : nullptr;
        x[r] = x_[from + r] + at;
        roots[r] = roots_[from + r][k];
      }
      if (g[0])
        add_scaled<A, false, kFour>(g, x, roots, product_ + at, first_ + at, width_);
      else
        add_scaled<A, true, kFour>(g, x, roots, product_ + at, first_ + at, width_);
    }
  }

  int64_t groups_, width_;
  A *product_, *first_;
  Rows<A> g_{}, x_{}, roots_{};
  int count_ = 0;
};

/// One token's channels: where its groups are, and what they become.
template <class A>
struct Token {
  int64_t groups, width;  // of a group

  void measure(const A* x, A eps, A* roots) const {
    for (int64_t k = 0; k < groups; ++k)
      roots[k] = A(1) / std::sqrt(squares(x + k * width, width) / static_cast<A>(width) + eps);
  }
};

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
  parallel_rows(partials.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<RowReader<T>> read(kTogether, RowReader<T>(n)), read_gradient = read;
    for (int64_t c = begin; c < end; ++c) {
      ScaledAdder<A> adder(token.groups, token.width, partial + 2 * c * n,
                           partial + (2 * c + 1) * n);
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        if (real && !real[r]) continue;
        const int place = adder.count();
        const A* row = read[place](from + r * n);
        A* own = roots + r * groups.count;
        if (!measured) token.measure(row, static_cast<A>(groups.eps), own);
        adder.add(gradient ? read_gradient[place](gradient + r * n) : nullptr, row, own);
      }
      adder.finish();
    }
  });
}

template <class T>
void scale_rows(const at::Tensor& x, const at::Tensor& roots, const at::Tensor& factor,
                const at::Tensor& shift, const at::Tensor& y) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), groups = roots.size(-1), width = n / groups;
  const T* from = x.const_data_ptr<T>();
  const A *root = roots.const_data_ptr<A>(), *by = factor.const_data_ptr<A>();
  const A* more = shift.const_data_ptr<A>();
  T* to = y.data_ptr<T>();
  parallel_rows(x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      const A* row = read(from + r * n);
      A* out = write.place(to + r * n);
      for (int64_t k = 0, at = 0; k < groups; ++k, at += width)
        scale(row + at, root[r * groups + k], by + at, more + at, out + at, width);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void gradient_rows(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                   const at::Tensor& g_factor, const at::Tensor& z_factor, const at::Tensor& dx) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), groups = roots.size(-1), width = n / groups;
  const T *gradient = g.const_data_ptr<T>(), *from = x.const_data_ptr<T>();
  const A *root = roots.const_data_ptr<A>(), *by = g_factor.const_data_ptr<A>();
  const A* along = z_factor.const_data_ptr<A>();
  T* to = dx.data_ptr<T>();
  parallel_rows(x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_gradient(n);
    RowWriter<T> write(n);
    std::vector<A> u(width);
    for (int64_t r = begin; r < end; ++r) {
      const A *row = read(from + r * n), *dy = read_gradient(gradient + r * n);
      A* out = write.place(to + r * n);
      for (int64_t k = 0, at = 0; k < groups; ++k, at += width) {
        const A own = root[r * groups + k];
        const A sum = gather(dy + at, row + at, own, by + at, along + at, u.data(), width);
        // (u − z · mean(u z)) · root
        project(u.data(), row + at, own, own * own * sum / static_cast<A>(width), out + at, width);
      }
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
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "grouped",
                                  [&] { scale_rows<scalar_t>(x, roots, factor, shift, y); });
  return y;
}

at::Tensor grouped_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                            const at::Tensor& g_factor, const at::Tensor& z_factor) {
  const at::Tensor dx = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "grouped", [&] {
    gradient_rows<scalar_t>(g, x, roots, g_factor, z_factor, dx);
  });
  return dx;
}

}  // namespace formwork::cpu
