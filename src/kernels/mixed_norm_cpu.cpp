#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/lanes.h"
#include "kernels/mixed_norm.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

/// Numbers of one token in out = g · (a · weight + factor) + x · (b + slope) + c · weight + d +
/// shift; x, b and slope may be missing.
template <class A>
struct TokenPart {
  A a, b, c, d;
};
template <class A>
struct ChannelPart {
  const A *weight, *factor, *slope, *shift;
};

template <class A>
void combine(const A* g, const A* x, const TokenPart<A>& token, const ChannelPart<A>& channel,
             A* out, int64_t n) {
  using L = Lanes<A>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    const auto w = L::load(channel.weight + i);
    auto v = L::load(g + i) * (w * token.a + L::load(channel.factor + i)) + w * token.c + token.d +
             L::load(channel.shift + i);
    if (x) v += L::load(x + i) * (L::load(channel.slope + i) + token.b);
    L::store(out + i, v);
  }
  for (; i < n; ++i)
    out[i] = g[i] * (channel.weight[i] * token.a + channel.factor[i]) +
             channel.weight[i] * token.c + token.d + channel.shift[i] +
             (x ? x[i] * (channel.slope[i] + token.b) : A(0));
}

/// The sums over tokens of one chunk of them.
template <class A>
struct ChannelSumsOf {
  A *gradient, *product, *normed;
};

/// A token's gradient and input, its mean and its factor, and where its own two sums go.
template <class A>
struct TokenRow {
  const A *g, *x;
  A mean, inverse;
  A *gradient, *product;
};

/// Adds two tokens, or one, to the sums over tokens; sums over the channels of each.
template <class A, bool kTwo>
void add_tokens(const TokenRow<A>& a, const TokenRow<A>& b, const A* weight, const A* centre,
                const ChannelSumsOf<A>& sums, int64_t n) {
  using L = Lanes<A>;
  const TokenRow<A> rows[2] = {a, b};  // no store below can change a copy
  typename L::Vector first[2] = {}, second[2] = {};
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    auto gradient = L::load(sums.gradient + i), product = L::load(sums.product + i);
    auto all_normed = L::load(sums.normed + i);
    const auto off = L::load(centre + i), w = L::load(weight + i);
    const auto step = [&](int k) {
      const TokenRow<A>& token = rows[k];
      const auto dy = L::load(token.g + i), v = L::load(token.x + i);
      const auto normed = dy * ((v - token.mean) * token.inverse);
      gradient += dy;
      product += dy * (v - off);
      all_normed += normed;
      first[k] += dy * w;
      second[k] += normed * w;
    };
    step(0);
    if constexpr (kTwo) step(1);
    L::store(sums.gradient + i, gradient);
    L::store(sums.product + i, product);
    L::store(sums.normed + i, all_normed);
  }
  const auto finish = [&](int k) {
    const TokenRow<A>& token = rows[k];
    A own_gradient = L::sum(first[k]), own_product = L::sum(second[k]);
    for (int64_t j = i; j < n; ++j) {
      const A normed = token.g[j] * ((token.x[j] - token.mean) * token.inverse);
      sums.gradient[j] += token.g[j];
      sums.product[j] += token.g[j] * (token.x[j] - centre[j]);
      sums.normed[j] += normed;
      own_gradient += token.g[j] * weight[j];
      own_product += normed * weight[j];
    }
    *token.gradient = own_gradient;
    *token.product = own_product;
  };
  finish(0);
  if constexpr (kTwo) finish(1);
}

template <class A>
ChannelPart<A> channels(const MixedNorm& norm, const at::Tensor& slope) {
  return {norm.weight.const_data_ptr<A>(), norm.factor.const_data_ptr<A>(),
          slope.defined() ? slope.const_data_ptr<A>() : nullptr, norm.shift.const_data_ptr<A>()};
}

template <class T>
void forward_rows(const at::Tensor& x, const MixedNorm& norm, const MixedForward& result) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T* from = x.const_data_ptr<T>();
  T* to = result.y.data_ptr<T>();
  A *mean = result.mean.data_ptr<A>(), *inverse = result.inverse.data_ptr<A>();
  const ChannelPart<A> channel = channels<A>(norm, {});
  const A share = static_cast<A>(norm.share), eps = static_cast<A>(norm.eps);
  parallel_rows(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      const A* row = read(from + r * n);
      // Distances from the first channel: no digits are lost where the mean is large.
      const A centre = norm.centred ? row[0] : A(0);
      const auto [sum, squares] = moments(row, centre, n);
      const A off = norm.centred ? sum / static_cast<A>(n) : A(0);
      const A square = squares / static_cast<A>(n) - off * off;
      mean[r] = centre + off;
      inverse[r] = A(1) / std::sqrt(std::max(square, A(0)) + eps);
      const A scale = share * inverse[r];
      combine<A>(row, nullptr, {scale, A(0), -scale * mean[r], A(0)}, channel,
                 write.place(to + r * n), n);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void sum_rows(const at::Tensor& g, const at::Tensor& x, const MixedForward& forward,
              const at::Tensor& weight, const at::Tensor& centre, const at::Tensor& partials,
              const MixedSums& sums, int64_t chunk) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T *gradient = g.const_data_ptr<T>(), *from = x.const_data_ptr<T>();
  const A *mean = forward.mean.const_data_ptr<A>(), *inverse = forward.inverse.const_data_ptr<A>();
  const A *by = weight.const_data_ptr<A>(), *off = centre.const_data_ptr<A>();
  A *first = sums.token_gradient.data_ptr<A>(), *second = sums.token_product.data_ptr<A>();
  A* partial = partials.data_ptr<A>();
  parallel_rows(partials.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<RowReader<T>> read(2, RowReader<T>(n)), read_gradient = read;
    for (int64_t c = begin; c < end; ++c) {
      A* own = partial + 3 * c * n;
      const ChannelSumsOf<A> channel{own, own + n, own + 2 * n};
      const auto token = [&](int64_t r, int place) {
        return TokenRow<A>{read_gradient[place](gradient + r * n),
                           read[place](from + r * n),
                           mean[r],
                           inverse[r],
                           first + r,
                           second + r};
      };
      const int64_t last = std::min(rows, (c + 1) * chunk);
      int64_t r = c * chunk;
      for (; r + 2 <= last; r += 2)
        add_tokens<A, true>(token(r, 0), token(r + 1, 1), by, off, channel, n);
      if (r < last) add_tokens<A, false>(token(r, 0), {}, by, off, channel, n);
    }
  });
}

template <class T>
void backward_rows(const at::Tensor& g, const at::Tensor& x, const MixedForward& forward,
                   const MixedSums& sums, const MixedNorm& norm, const at::Tensor& slope,
                   const at::Tensor& result) {
  using A = Accumulator<T>;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T *gradient = g.const_data_ptr<T>(), *from = x.const_data_ptr<T>();
  T* to = result.data_ptr<T>();
  const A *mean = forward.mean.const_data_ptr<A>(), *inverse = forward.inverse.const_data_ptr<A>();
  const A* first = sums.token_gradient.const_data_ptr<A>();
  const A* second = sums.token_product.const_data_ptr<A>();
  const ChannelPart<A> channel = channels<A>(norm, slope);
  const A share = static_cast<A>(norm.share), channels_count = static_cast<A>(n);
  parallel_rows(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read_gradient(n), read(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      // share · r · (g w − mean(g w) − x̂ mean(g w x̂)), x̂ = (x − m) r
      const A scale = share * inverse[r];
      const A along = -scale * inverse[r] * second[r] / channels_count;
      const A level = norm.centred ? -scale * first[r] / channels_count : A(0);
      combine<A>(read_gradient(gradient + r * n), read(from + r * n),
                 {scale, along, A(0), level - along * mean[r]}, channel, write.place(to + r * n),
                 n);
      write.finish(to + r * n);
    }
  });
}

}  // namespace

MixedForward mixed_norm_forward(const at::Tensor& x, const MixedNorm& norm) {
  const auto kind = x.options().dtype(accumulator_type(x));
  const int64_t rows = x.numel() / x.size(-1);
  const MixedForward result{at::empty_like(x), at::empty({rows}, kind), at::empty({rows}, kind)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "mixed_norm",
                                  [&] { forward_rows<scalar_t>(x, norm, result); });
  return result;
}

MixedSums mixed_norm_sums(const at::Tensor& g, const at::Tensor& x, const MixedForward& forward,
                          const at::Tensor& weight, const at::Tensor& centre) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials = at::zeros({(rows + chunk - 1) / chunk, 3, n}, weight.options());
  MixedSums sums;
  sums.token_gradient = at::empty_like(forward.mean);
  sums.token_product = at::empty_like(forward.mean);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "mixed_norm", [&] {
    sum_rows<scalar_t>(g, x, forward, weight, centre, partials, sums, chunk);
  });
  const at::Tensor all = partials.sum(0);
  sums.gradient = all[0];
  sums.product = all[1];
  sums.normed = all[2];
  return sums;
}

at::Tensor mixed_norm_backward(const at::Tensor& g, const at::Tensor& x,
                               const MixedForward& forward, const MixedSums& sums,
                               const MixedNorm& norm, const at::Tensor& slope) {
  const at::Tensor result = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "mixed_norm", [&] {
    backward_rows<scalar_t>(g, x, forward, sums, norm, slope, result);
  });
  return result;
}

}  // namespace formwork::cpu
