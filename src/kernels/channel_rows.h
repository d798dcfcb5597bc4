// Loops over one row or a few, for kernels with sums and factors for each channel.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/lanes.h"

namespace formwork::cpu {

constexpr int kTogether = 4;  // rows added at a time: the sums are read once for them

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

}  // namespace formwork::cpu
