// Inverses of the small symmetric matrices of softmax-free attention.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// How a derivative is taken.
enum class InverseGradient {
  closed,   // dP = -Zᵀ g Zᵀ with the result Z: exact where Z is the inverse
  autograd  // through every step
};

/// Where Newton's iteration for the inverse of P = K + ridge I begins: alpha [...,1,1] = 1.8 / r²
/// with the largest row sum r of K [...,m,m] (of each matrix, or of the whole batch), K >= 0.
/// r bounds K's largest eigenvalue, so that alpha < 2 / lambda_max(P)² and the iteration converges;
/// a ridge above 0.01 is added to r for that.
Tensor newton_start(const Tensor& kernel, double ridge, bool whole_batch);

/// The start of the authors' normalised program: 2 / r² with r over the whole batch, halved at most
/// ten times while a column sum of |I - alpha P P| is above 1.01. Where all rows of K sum to r (one
/// or two rows always do) the iteration then ends at a matrix that is not the inverse.
Tensor released_newton_start(const Tensor& p);

/// The inverse of P [...,m,m], symmetric, by `steps` times V <- 2V - V P V from V = alpha P. The
/// error |I - P V| is squared by each step. (Schulz 1933.)
Tensor newton_inverse(const Tensor& p, const Tensor& alpha, int64_t steps,
                      InverseGradient gradient);

/// P⁻¹ t for P [...,m,m] symmetric and positive definite, t [...,m,K], by Cholesky. Where rounding
/// leaves no factor the diagonal grows by m eps, ten times that, and so on.
Tensor cholesky_inverse_times(const Tensor& p, const Tensor& t, InverseGradient gradient);

}  // namespace formwork
