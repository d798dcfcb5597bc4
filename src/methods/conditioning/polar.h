// The correction of conditioned tokens: the polar factor of matrices of tokens, and its gradient.
#pragma once

#include <string>

#include "core/options.h"
#include "methods/module.h"

namespace formwork {

/// How the correction C = scale · s1 Q is found and differentiated. X [N,D] = U diag(s) Vᵀ with
/// r = min(N, D) singular values s1 >= ... >= sr, Q = U Vᵀ its orthogonal polar factor, kappa(X) =
/// s1 / sr. kappa(X + C) = (1 + scale) / (scale + 1 / kappa(X)): at most 2 where scale = 1.
struct PolarOptions {
  std::string gradient = "detached";
  std::string method = "auto";
  int64_t iterations = 20;
  double scale = 1.0, min_kappa = 0.0, eps = 1e-12;
  void describe(OptionSet& o);
};

/// What X [B,N,D] says of its correction; carries no gradient.
struct Polar {
  std::string method;    // svd, gram64 or newton_schulz
  Tensor correction;     // C [B,N,D], of X's type
  Tensor factor;         // [B,1,1]: scale, or 0 where kappa(X) <= min_kappa
  Tensor u, s, v;        // [B,N,r], [B,r], [B,D,r]; undefined where nothing needs them
  bool partial = false;  // some directions have no correction: there u, s and v are 0
};

/// `svd` takes X as it is and completes Q arbitrarily where X has not full rank. `gram64` takes the
/// eigenvectors of the smaller of XᵀX and XXᵀ in float64: 10 digits at kappa 1e3, 4 at 1e6;
/// directions beyond that get no correction. `newton_schulz` multiplies matrices only: Y <- 1.5 Y -
/// 0.5 Y YᵀY from X / (1.01 s1), good up to kappa of about 1.5^(iterations - 4).
/// `auto`: newton_schulz for large float32 matrices where it converges and nothing but C is wanted;
/// else gram64; svd for float64 tokens whose digits gram64 would lose. It corrects no direction
/// that it cannot resolve.
/// Refuses X of rank 0, which has no gradient, or with refuse_zeros = false leaves it 0; fails on
/// numbers that are not finite. `where` begins the messages.
Polar polar_of(const Tensor& x, const PolarOptions& options, const std::string& where,
               bool refuse_zeros = true);

/// C with the gradient that options.gradient wants: none (detached), or the exact one of x
/// (through), by its closed form, which is finite for equal singular values. `polar` must be
/// polar_of(x).
Tensor correction_of(const Tensor& x, const Polar& polar, const PolarOptions& options);

/// sqrt(lmax) (R + 1e-4 lmax I)^(-1/2) of a symmetric R [D,D], or 0 where sqrt(kappa(R)) <=
/// min_kappa; float64, no gradient.
Tensor inverse_root(const Tensor& symmetric, double min_kappa);

/// What tells one content of a tensor from another, to compute again only what has changed.
struct Contents {
  const void* data = nullptr;
  uint32_t version = 0;
  Contents() = default;
  explicit Contents(const Tensor& tensor)
      : data(tensor.const_data_ptr()), version(static_cast<uint32_t>(tensor._version())) {}
  bool operator==(const Contents&) const = default;
};

}  // namespace formwork
