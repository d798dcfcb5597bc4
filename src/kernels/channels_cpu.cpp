#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "kernels/channels.h"
#include "kernels/lanes.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

constexpr int64_t kRowsAtOnce = 32;     // least work for a thread
constexpr int64_t kMostPartials = 256;  // partial sums over the tokens
constexpr int kTogether = 4;            // rows added at a time: the sums are read once for them

template <class T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <class A>
using Rows = std::array<const A*, kTogether>;

/// Adds Σ left · (x − centre) and Σ left over four rows or one; without g, left = x − centre.
template <class A, bool kOwnSquare, bool kCentred, bool kFour>
void add_rows(const Rows<A>& g, const Rows<A>& x, const A* centre, A* product, A* first,
              int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto p = L::load(product + i), f = L::load(first + i);
    const auto step = [&](int r) {
      auto v = L::load(x[r] + i);
      if constexpr (kCentred) v -= L::load(centre + i);
      const auto left = kOwnSquare ? v : L::load(g[r] + i);
      p += left * v;
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
      const A v = kCentred ? x[r][i] - centre[i] : x[r][i];
      const A left = kOwnSquare ? v : g[r][i];
      product[i] += left * v;
      first[i] += left;
    }
}

/// Collects rows and adds them four at a time.
template <class A>
class Adder {
 public:
  Adder(const A* centre, A* product, A* first, int64_t n)
      : centre_(centre), product_(product), first_(first), n_(n) {}
  int count() const { return count_; }
  void add(const A* g, const A* x) {
    g_[count_] = g;
    x_[count_] = x;
    if (++count_ < kTogether) return;
    run<true>(g_, x_);
    count_ = 0;
  }
  void finish() {
    for (int r = 0; r < count_; ++r) run<false>({g_[r]}, {x_[r]});
    count_ = 0;
  }

 private:
  template <bool kFour>
  void run(const Rows<A>& g, const Rows<A>& x) {
    const bool own = g[0] == nullptr;
    const auto call = [&](auto add) { add(g, x, centre_, product_, first_, n_); };
    if (own)
      centre_ ? call(add_rows<A, true, true, kFour>) : call(add_rows<A, true, false, kFour>);
    else
      centre_ ? call(add_rows<A, false, true, kFour>) : call(add_rows<A, false, false, kFour>);
  }

  const A* centre_;
  A *product_, *first_;
  int64_t n_;
  Rows<A> g_{}, x_{};
  int count_ = 0;
};

template <class T>
void sum_rows(const T* g, const T* x, const Accumulator<T>* centre, const bool* valid,
              Accumulator<T>* partials, int64_t rows, int64_t n, int64_t chunk) {
  using A = Accumulator<T>;
  at::parallel_for(0, (rows + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
    std::vector<RowReader<T>> read_g(kTogether, RowReader<T>(n)), read_x = read_g;
    for (int64_t c = begin; c < end; ++c) {
      A* product = partials + 2 * c * n;
      A* first = product + n;
      Adder<A> adder(centre, product, first, n);
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        if (valid && !valid[r]) continue;
        // Widened rows wait in buffers of their own until they are added.
        const int place = adder.count();
        adder.add(g ? read_g[place](g + r * n) : nullptr, read_x[place](x + r * n));
      }
      adder.finish();
    }
  });
}

/// out = g · g_factor [+ x · x_factor] [+ shift].
template <class A>
void combine(const A* g, const A* g_factor, const A* x, const A* x_factor, const A* shift, A* out,
             int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto v = L::load(g + i) * L::load(g_factor + i);
    if (x) v += L::load(x + i) * L::load(x_factor + i);
    if (shift) v += L::load(shift + i);
    L::store(out + i, v);
  }
  for (; i < n; ++i)
    out[i] = g[i] * g_factor[i] + (x ? x[i] * x_factor[i] : A(0)) + (shift ? shift[i] : A(0));
}

}  // namespace

ChannelSums channel_sums(const at::Tensor& g, const at::Tensor& x, const at::Tensor& centre,
                         const at::Tensor& valid) {
  const int64_t n = x.size(-1);
  const int64_t rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials =
      at::zeros({(rows + chunk - 1) / chunk, 2, n}, x.options().dtype(accumulator_type(x)));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "channel_sums", [&] {
    using A = Accumulator<scalar_t>;
    sum_rows<scalar_t>(data_or_null<scalar_t>(g), x.const_data_ptr<scalar_t>(),
                       data_or_null<A>(centre), data_or_null<bool>(valid), partials.data_ptr<A>(),
                       rows, n, chunk);
  });
  const at::Tensor sums = partials.sum(0);
  return {sums[0], sums[1]};
}

at::Tensor channel_combine(const at::Tensor& g, const at::Tensor& g_factor, const at::Tensor& x,
                           const at::Tensor& x_factor, const at::Tensor& shift) {
  const int64_t n = g.size(-1);
  const int64_t rows = g.numel() / n;
  at::Tensor y = at::empty_like(g);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, g.scalar_type(), "channels", [&] {
    using A = Accumulator<scalar_t>;
    const auto* from = g.const_data_ptr<scalar_t>();
    const auto* other = data_or_null<scalar_t>(x);
    auto* to = y.data_ptr<scalar_t>();
    at::parallel_for(0, rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      RowReader<scalar_t> read(n), read_other(n);
      RowWriter<scalar_t> write(n);
      for (int64_t r = begin; r < end; ++r) {
        combine(read(from + r * n), data_or_null<A>(g_factor),
                other ? read_other(other + r * n) : nullptr, data_or_null<A>(x_factor),
                data_or_null<A>(shift), write.place(to + r * n), n);
        write.finish(to + r * n);
      }
    });
  });
  return y;
}

}  // namespace formwork::cpu
