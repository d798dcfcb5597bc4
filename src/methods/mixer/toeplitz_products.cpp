#include "methods/mixer/toeplitz_products.h"

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using NoAutocast = c10::impl::ExcludeDispatchKeyGuard;

/// Queries of a tile, and numbers that the columns of a chunk may take: more would leave the
/// caches, and memory of such sizes is given back to the system and asked for again each time.
constexpr int64_t kTile = 128, kChunkNumbers = int64_t{1} << 20;

Tensor without_future(const Tensor& factors, bool causal) {
  if (!causal) return factors;
  const int64_t n = (factors.size(1) + 1) / 2;
  return at::constant_pad_nd(factors.narrow(1, 0, n), {0, n - 1});
}

/// Rows [from, from + rows) of the Toeplitz matrix, its first `keys` columns: [H,rows,keys].
Tensor tile_of(const Tensor& factors, int64_t from, int64_t rows, int64_t keys) {
  const int64_t n = (factors.size(1) + 1) / 2;
  return factors.narrow(1, n - from - rows, rows + keys - 1).unfold(1, keys, 1).flip(1);
}

/// The sum along each diagonal of a tile [H,rows,keys]: [H,rows+keys-1], the lowest first.
Tensor sum_diagonals(const Tensor& tile) {
  const int64_t heads = tile.size(0), rows = tile.size(1), width = rows + tile.size(2);
  // Rows of width w read as rows of width w-1 shift by one each: diagonals become columns.
  return at::constant_pad_nd(tile.flip(1), {0, rows})
      .view({heads, rows * width})
      .narrow(1, 0, rows * (width - 1))
      .unflatten(1, {rows, width - 1})
      .sum(1);
}

/// Calls body(first query, queries, keys that they see) for each tile.
template <class Body>
void for_each_tile(int64_t n, bool causal, const Body& body) {
  for (int64_t from = 0; from < n; from += kTile) {
    const int64_t rows = std::min(kTile, n - from);
    body(from, rows, causal ? from + rows : n);
  }
}

/// Tiles of weights are computed again in the backward pass instead of being kept.
struct Direct : torch::autograd::Function<Direct> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& factors, bool causal) {
    const NoAutocast guard(c10::autocast_dispatch_keyset);
    context->save_for_backward({q, k, v, factors});
    context->saved_data["causal"] = causal;
    const Tensor c = without_future(factors, causal);
    const Tensor y = at::empty(v.sizes(), v.options());
    for_each_tile(q.size(2), causal, [&](int64_t from, int64_t rows, int64_t keys) {
      const Tensor weights =
          at::matmul(q.narrow(2, from, rows), k.narrow(2, 0, keys).transpose(-2, -1));
      weights.mul_(tile_of(c, from, rows, keys));
      y.narrow(2, from, rows).copy_(at::matmul(weights, v.narrow(2, 0, keys)));
    });
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const NoAutocast guard(c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &g = gradients[0];
    const bool causal = context->saved_data["causal"].toBool();
    const int64_t n = q.size(2);
    const Tensor c = without_future(saved[3], causal);
    const Tensor dq = at::empty_like(q), dk = at::zeros_like(k), dv = at::zeros_like(v);
    const Tensor dc = at::zeros_like(c);
    for_each_tile(n, causal, [&](int64_t from, int64_t rows, int64_t keys) {
      const Tensor q_tile = q.narrow(2, from, rows), g_tile = g.narrow(2, from, rows);
      const Tensor k_seen = k.narrow(2, 0, keys), v_seen = v.narrow(2, 0, keys);
      const Tensor tile = tile_of(c, from, rows, keys);
      const Tensor products = at::matmul(q_tile, k_seen.transpose(-2, -1));
      const Tensor d_weights = at::matmul(g_tile, v_seen.transpose(-2, -1));
      dv.narrow(2, 0, keys).add_(at::matmul((products * tile).transpose(-2, -1), g_tile));
      dc.narrow(1, n - from - rows, rows + keys - 1)
          .add_(sum_diagonals((d_weights * products).sum(0)));
      const Tensor d_products = d_weights * tile;
      dq.narrow(2, from, rows).copy_(at::matmul(d_products, k_seen));
      dk.narrow(2, 0, keys).add_(at::matmul(d_products.transpose(-2, -1), q_tile));
    });
    return {dq, dk, dv, without_future(dc, causal), Tensor()};
  }
};

/// The circle of factors: a convolution with it is the product with the Toeplitz matrix.
struct Circle {
  int64_t n, length;  // a power of two that holds all 2N-1 distances
  Tensor spectrum;    // [H,1,1,length/2+1]

  Circle(const Tensor& factors, bool causal) : n((factors.size(1) + 1) / 2), length(2) {
    while (length < 2 * n - 1) length *= 2;
    const Tensor past = factors.narrow(1, 0, n).flip(1);  // c_0, c_-1, ...
    const Tensor future = factors.narrow(1, n, n - 1).flip(1);
    const Tensor between = at::zeros({factors.size(0), length - 2 * n + 1}, factors.options());
    const Tensor circle = at::cat({past, between, causal ? at::zeros_like(future) : future}, 1);
    spectrum = at::fft_rfft(circle, length).unsqueeze(1).unsqueeze(1);
  }

  Tensor transform(const Tensor& a) const { return at::fft_rfft(a, length); }
  Tensor back(const Tensor& spectra) const { return at::fft_irfft(spectra, length); }
  Tensor first(const Tensor& spectra) const { return back(spectra).narrow(-1, 0, n); }

  /// The gradient [H,2N-1] of the factors from that of the spectrum's circle [H,length].
  Tensor unwind(const Tensor& circle, bool causal) const {
    const Tensor past = circle.narrow(1, 0, n).flip(1);
    const Tensor future = circle.narrow(1, length - n + 1, n - 1).flip(1);
    return at::cat({past, causal ? at::zeros_like(future) : future}, 1);
  }
};

/// Some heads and features of one sequence.
struct Chunk {
  int64_t sequence, head, heads, feature, features;

  /// x [B,H,...] → [heads,...].
  Tensor of(const Tensor& x) const { return x.select(0, sequence).narrow(0, head, heads); }
  /// x [B,H,M,N] → [heads,features,N].
  Tensor features_of(const Tensor& x) const { return of(x).narrow(1, feature, features); }
};

/// Calls body(chunk) for chunks of bounded memory.
template <class Body>
void for_each_chunk(const Tensor& k, const Tensor& v, int64_t length, const Body& body) {
  const int64_t batch = k.size(0), heads = k.size(1), features = k.size(3);
  const int64_t columns = std::max<int64_t>(1, kChunkNumbers / (v.size(3) * length));
  const int64_t heads_at_once = std::clamp<int64_t>(columns / features, 1, heads);
  const int64_t features_at_once = std::min(columns, features);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; h += heads_at_once)
      for (int64_t m = 0; m < features; m += features_at_once)
        body(Chunk{b, h, std::min(heads_at_once, heads - h), m,
                   std::min(features_at_once, features - m)});
}

/// [B,H,N,W] → [B,H,W,N] with the tokens side by side in memory.
Tensor tokens_last(const Tensor& x) {
  return x.transpose(-1, -2).contiguous();
}

/// Spectra of the columns are computed again in the backward pass instead of being kept.
struct Fourier : torch::autograd::Function<Fourier> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& factors, bool causal) {
    const NoAutocast guard(c10::autocast_dispatch_keyset);
    context->save_for_backward({q, k, v, factors});
    context->saved_data["causal"] = causal;
    const Circle circle(factors, causal);
    const Tensor queries = tokens_last(q), keys = tokens_last(k), values = tokens_last(v);
    const Tensor y = at::zeros_like(values);
    for_each_chunk(k, v, circle.length, [&](const Chunk& chunk) {
      const Tensor columns = chunk.features_of(keys).unsqueeze(2) * chunk.of(values).unsqueeze(1);
      const Tensor spectrum = circle.spectrum.narrow(0, chunk.head, chunk.heads);
      const Tensor mixed = circle.first(circle.transform(columns).mul_(spectrum));
      chunk.of(y).add_(mixed.mul_(chunk.features_of(queries).unsqueeze(2)).sum(1));
    });
    return y.transpose(-1, -2);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const NoAutocast guard(c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const bool causal = context->saved_data["causal"].toBool();
    const Circle circle(saved[3], causal);
    const Tensor queries = tokens_last(saved[0]), keys = tokens_last(saved[1]);
    const Tensor values = tokens_last(saved[2]), slopes = tokens_last(gradients[0]);
    const Tensor dq = at::empty_like(queries), dk = at::empty_like(keys);
    const Tensor dv = at::zeros_like(values);
    const Tensor d_spectrum = at::zeros_like(circle.spectrum.squeeze(1).squeeze(1));
    const Tensor all_conjugate = circle.spectrum.conj().resolve_conj();
    for_each_chunk(saved[1], saved[2], circle.length, [&](const Chunk& chunk) {
      const auto for_heads = [&](const Tensor& x) { return x.narrow(0, chunk.head, chunk.heads); };
      const Tensor key = chunk.features_of(keys).unsqueeze(2);       // [heads,features,1,N]
      const Tensor value = chunk.of(values).unsqueeze(1);            // [heads,1,V,N]
      const Tensor g = chunk.of(slopes).unsqueeze(1);                // [heads,1,V,N]
      const Tensor query = chunk.features_of(queries).unsqueeze(2);  // [heads,features,1,N]
      const Tensor columns = circle.transform(key * value);
      const Tensor pulled = circle.transform(query * g);
      for_heads(d_spectrum).add_((columns.conj() * pulled).sum(at::IntArrayRef({1, 2})));
      chunk.features_of(dq).copy_(
          circle.first(columns.mul_(for_heads(circle.spectrum))).mul_(g).sum(2));
      const Tensor d_columns = circle.first(pulled.mul_(for_heads(all_conjugate)));
      chunk.features_of(dk).copy_((d_columns * value).sum(2));
      chunk.of(dv).add_(d_columns.mul_(key).sum(1));
    });
    return {dq.transpose(-1, -2), dk.transpose(-1, -2), dv.transpose(-1, -2),
            circle.unwind(circle.back(d_spectrum), causal), Tensor()};
  }
};

}  // namespace

Tensor toeplitz_products_direct(const ToeplitzProducts& all) {
  return Direct::apply(all.q, all.k, all.v, all.factors, all.causal);
}

Tensor toeplitz_products_fft(const ToeplitzProducts& all) {
  return Fourier::apply(all.q, all.k, all.v, all.factors, all.causal);
}

}  // namespace formwork
