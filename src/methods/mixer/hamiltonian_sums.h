// Sums over pairs of tokens with the weights exp(x_i·u_j), by tiles: the N x N weights are never
// held, and the gradients compute them again.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// Which pairs count.
struct PairRule {
  bool causal = false;  // query i sees keys j <= i + M - N
  Tensor key_valid;     // [B,M] bool, false: nobody sees this key; undefined = all are real
  Tensor allowed;       // [B or 1,N,M] bool, instead of both; undefined = every pair
};

/// Scores beyond this size are cut; what depends on a cut score has no derivative through it.
inline constexpr double kLargestScore = 60.0;

/// What becomes of pairs with a cut score in the sum with values.
enum class CutPairs { dropped, kept };

/// total_i = sum_j E_ij [B,N,1] and y_i = sum_j E_ij v_j [B,N,V], E_ij = exp(cut(x_i·u_j)):
/// x [B,N,D], u [B,M,D], v [B,M,V] or undefined, when y is.
struct ExponentialSums {
  Tensor total, y;
};
ExponentialSums exponential_sums(const Tensor& x, const Tensor& u, const Tensor& v,
                                 const PairRule& rule, CutPairs cut);

/// The sums of the force of a Hamiltonian q_i/(2 z_i) - c/2 sum_j E_ij over i, with z_i =
/// max(total_i / n_i, floor), its derivative with respect to E being -W_ij:
///   W_ij = E_ij (s_i/n_i + c)/2,  s_i = q_i/z_i² where z_i is above the floor, else 0
/// W is 0 where the score is cut. c = 1 with the `potential`, else 0.
struct ForceSums {
  Tensor z;        // [B,N,1]
  Tensor rows;     // [B,N,D] sum_j W_ij u_j
  Tensor columns;  // [B,N,D] sum_i W_ij x_i, which tells key j of later queries
};
struct ForceRule {
  PairRule pairs;
  double floor = 1e-8;
  bool potential = true;
};
/// x, u [B,N,D], q [B,N,1], n broadcasts to [B,N,1] and takes no gradient.
ForceSums force_sums(const Tensor& x, const Tensor& u, const Tensor& q, const Tensor& n,
                     const ForceRule& rule);

}  // namespace formwork
