#include "methods/mixer/soft_inverse.h"

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kSafety = 1.8;      // below 2, where the iteration stops converging
constexpr double kFreeRidge = 0.01;  // what the 1.8 leaves room for
constexpr double kReleasedBound = 1.01;
constexpr int kReleasedHalvings = 10;

/// max over rows, [...,1,1]; of all matrices where `whole_batch`.
Tensor largest_row_sum(const Tensor& matrix, bool whole_batch) {
  const Tensor sums = matrix.sum(-1, true).amax(-2, true);
  return whole_batch ? sums.amax().view(std::vector<int64_t>(matrix.dim(), 1)) : sums;
}

/// p and alpha: [n,m,m], [n or 1,1,1].
Tensor iterate(const Tensor& p, const Tensor& alpha, int64_t steps) {
  Tensor v = alpha * p;
  for (int64_t i = 0; i < steps; ++i) v = at::baddbmm(v, at::bmm(v, p), v, 2, -1);
  return v;
}

struct NewtonInverse : torch::autograd::Function<NewtonInverse> {
  static Tensor forward(AutogradContext* context, const Tensor& p, const Tensor& alpha,
                        int64_t steps) {
    const Tensor inverse = iterate(p, alpha, steps);
    context->save_for_backward({inverse});
    return inverse;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor z = context->get_saved_variables()[0].transpose(-2, -1);
    return {at::bmm(at::bmm(z, gradients[0]), z).neg_(), Tensor(), Tensor()};
  }
};

/// The lower factor of p.
Tensor factor(const Tensor& p) {
  auto [lower, info] = at::linalg_cholesky_ex(p);
  const int64_t m = p.size(-1);
  const double eps = p.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                                    : std::numeric_limits<float>::epsilon();
  const Tensor unit = at::eye(m, p.options());
  // The kernel's diagonal is 1: a multiple of m would do for any of its matrices.
  for (double more = static_cast<double>(m) * eps; more < static_cast<double>(m); more *= 10) {
    const Tensor failed = info.ne(0);
    if (!failed.any().item<bool>()) break;
    const Tensor raised =
        p + unit * (failed.to(p.scalar_type()) * more).unsqueeze(-1).unsqueeze(-1);
    std::tie(lower, info) = at::linalg_cholesky_ex(raised);
  }
  return lower;
}

struct CholeskySolve : torch::autograd::Function<CholeskySolve> {
  static Tensor forward(AutogradContext* context, const Tensor& p, const Tensor& t) {
    const Tensor lower = factor(p), solution = at::cholesky_solve(t, lower);
    context->save_for_backward({lower, solution});
    return solution;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto saved = context->get_saved_variables();
    const Tensor to_t = at::cholesky_solve(gradients[0], saved[0]);
    return {at::matmul(to_t, saved[1].transpose(-2, -1)).neg_(), to_t};
  }
};

}  // namespace

Tensor newton_start(const Tensor& kernel, double ridge, bool whole_batch) {
  const Tensor bound = largest_row_sum(kernel, whole_batch) + std::max(0.0, ridge - kFreeRidge);
  return kSafety / bound.square();
}

Tensor released_newton_start(const Tensor& p) {
  Tensor alpha = 2 / largest_row_sum(p, true).square();
  const Tensor square = at::matmul(p, p), unit = at::eye(p.size(-1), p.options());
  for (int i = 0; i < kReleasedHalvings; ++i) {
    const Tensor error = (unit - alpha * square).abs().sum(-2).amax();
    if (error.item<double>() <= kReleasedBound) break;
    alpha = alpha * 0.5;
  }
  return alpha;
}

Tensor newton_inverse(const Tensor& p, const Tensor& alpha, int64_t steps,
                      InverseGradient gradient) {
  const int64_t m = p.size(-1);
  const Tensor flat = p.reshape({-1, m, m}), start = alpha.reshape({-1, 1, 1});
  const Tensor inverse = gradient == InverseGradient::closed
                             ? NewtonInverse::apply(flat, start.detach(), steps)
                             : iterate(flat, start, steps);
  return inverse.view(p.sizes());
}

Tensor cholesky_inverse_times(const Tensor& p, const Tensor& t, InverseGradient gradient) {
  if (gradient == InverseGradient::closed) return CholeskySolve::apply(p, t);
  return at::cholesky_solve(t, factor(p));
}

}  // namespace formwork
