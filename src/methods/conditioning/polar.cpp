#include "methods/conditioning/polar.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kernels/parallel.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kPowerSteps = 20;
constexpr int64_t kStarts = 8;           // vectors that the power steps start from
constexpr double kRidge = 1e-4;          // of lmax, under the root of a running statistic
constexpr double kConverged = 1e-3;      // largest entry of YᵀY - I that auto takes for converged
constexpr double kGramCondition = 30.0;  // beyond it gram64 has fewer digits than float64 tokens
constexpr int64_t kIterated = 1024;      // least min(N, D) that auto iterates for

/// Mixed precision would run these products in bfloat16.
struct WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};
struct NumbersOnly {
  WithoutAutocast no_autocast;
  c10::InferenceMode no_inference{false};  // what is kept must serve training too
  at::NoGradGuard no_grad;
};

/// X = U diag(s) Vᵀ, s falling.
struct Factors {
  Tensor u, s, v;
  bool partial = false;
};

/// Takes out the directions that are not `kept` [B,r].
Factors only(const Factors& f, const Tensor& kept) {
  if (kept.all().item<bool>()) return f;
  const Tensor dropped = kept.logical_not();
  return {f.u.masked_fill(dropped.unsqueeze(1), 0), f.s.masked_fill(dropped, 0),
          f.v.masked_fill(dropped.unsqueeze(1), 0), true};
}

Factors by_svd(const Tensor& x) {
  const auto [u, s, vh] = at::linalg_svd(x, false);
  return {u, s, vh.transpose(1, 2)};
}

Tensor smaller_gram(const Tensor& x) {
  const Tensor t = x.transpose(1, 2);
  return x.size(1) >= x.size(2) ? at::matmul(t, x) : at::matmul(x, t);
}

Factors by_gram_of_one(const Tensor& x, double eps) {
  const Tensor wide = x.to(at::kDouble);
  auto [values, vectors] = at::linalg_eigh(smaller_gram(wide));
  values = values.flip(1).clamp_min(0);
  vectors = vectors.flip(2);
  // Smaller eigenvalues are rounding errors of the largest.
  const double resolved =
      4.0 * static_cast<double>(values.size(1)) * std::numeric_limits<double>::epsilon();
  const Tensor kept = values > std::max(eps * eps, resolved) * values.narrow(1, 0, 1);
  const Tensor s = values.sqrt();
  const Tensor inverse = at::where(kept, s.reciprocal(), 0.0).unsqueeze(1);
  const bool tall = x.size(1) >= x.size(2);
  const Tensor other = at::matmul(tall ? wide : wide.transpose(1, 2), vectors) * inverse;
  return only(tall ? Factors{other, s, vectors} : Factors{vectors, s, other}, kept);
}

/// Samples are shared out among the threads: LAPACK gains little from several for one matrix.
Factors by_gram(const Tensor& x, double eps) {
  const int64_t batch = x.size(0), r = std::min(x.size(1), x.size(2));
  const auto kind = x.options().dtype(at::kDouble);
  Factors all{at::empty({batch, x.size(1), r}, kind), at::empty({batch, r}, kind),
              at::empty({batch, x.size(2), r}, kind)};
  std::vector<char> partial(static_cast<size_t>(batch));
  in_parallel(batch, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode no_inference{false};
    const at::NoGradGuard no_grad;
    for (int64_t b = begin; b < end; ++b) {
      const Factors one = by_gram_of_one(x.narrow(0, b, 1), eps);
      all.u.narrow(0, b, 1).copy_(one.u);
      all.s.narrow(0, b, 1).copy_(one.s);
      all.v.narrow(0, b, 1).copy_(one.v);
      partial[static_cast<size_t>(b)] = one.partial;
    }
  });
  all.partial = std::any_of(partial.begin(), partial.end(), [](char some) { return some != 0; });
  return all;
}

/// s1 [B,1,1] from below, by power steps on the smaller Gram matrix.
Tensor largest_by_power(const Tensor& x) {
  const Tensor gram = smaller_gram(x);
  Tensor q = normal_tensor({1, gram.size(1), kStarts}, 1.0, RandomStream(1)).to(x.options());
  Tensor length;
  for (int64_t i = 0; i < kPowerSteps; ++i) {
    q = at::matmul(gram, q);
    length = at::linalg_vector_norm(q, 2, at::IntArrayRef{1}, true);
    q = q / length.clamp_min(std::numeric_limits<float>::min());
  }
  return length.amax(2, true).sqrt();
}

/// One of Y YᵀY and YYᵀ Y, whichever is cheaper, in 1.5 Y - 0.5 (...).
Tensor by_iteration(const Tensor& x, const Tensor& largest, int64_t iterations) {
  const bool tall = x.size(1) >= x.size(2);
  Tensor y = x / (1.01 * largest).clamp_min(std::numeric_limits<float>::min());
  for (int64_t i = 0; i < iterations; ++i) {
    const Tensor gram = smaller_gram(y);
    y = tall ? at::baddbmm(y, y, gram, 1.5, -0.5) : at::baddbmm(y, gram, y, 1.5, -0.5);
  }
  return y;
}

bool converged(const Tensor& y) {
  const Tensor gram = smaller_gram(y);
  return (gram - at::eye(gram.size(1), gram.options())).abs().max().item<double>() < kConverged;
}

/// s1 / sr [B], infinite where a direction is left out.
Tensor condition(const Tensor& s) {
  return s.select(1, 0) / s.select(1, -1);
}

/// A sample of zeros has the correction 0 whatever Q is, but no gradient.
void check_rank(const Tensor& largest, const std::string& where) {
  check(largest.min().item<double>() > 0, where,
        "all embedded tokens of a sample are 0, so they have no largest direction; valid: at least "
        "one token that is not");
}

/// dX of a s1 Q for g [B,N,D], the gradient of that product; `a` is in g.
/// Q: U K Vᵀ with K = (M - Mᵀ) / (si + sj), M = Uᵀ g V, and what leaves the spans of U and V;
/// s1: u1 v1ᵀ <g, Q>. Only 1 / (si + sj) and 1 / si occur.
Tensor gradient_of(const Tensor& g, const Factors& f, double eps) {
  const Tensor ut = f.u.transpose(1, 2), vt = f.v.transpose(1, 2);
  const Tensor gv = at::matmul(g, f.v);
  const Tensor m = at::matmul(ut, gv);
  const Tensor largest = f.s.narrow(1, 0, 1).unsqueeze(2);
  const Tensor floor = largest * eps;
  const Tensor sums = at::maximum(f.s.unsqueeze(2) + f.s.unsqueeze(1), floor);
  const Tensor inverse = largest / at::maximum(f.s.unsqueeze(1), floor);  // [B,1,r]
  Tensor inner = (m - m.transpose(1, 2)) * (largest / sums);
  inner.select(1, 0).select(1, 0).add_(m.diagonal(0, 1, 2).sum(1));
  const bool beyond_u = f.partial || g.size(1) > g.size(2);
  const bool beyond_v = f.partial || g.size(1) < g.size(2);
  if (beyond_u) inner = inner - m * inverse;
  if (beyond_v) inner = inner - inverse.transpose(1, 2) * m;
  Tensor left = at::matmul(f.u, inner);
  if (beyond_u) left = left + gv * inverse;
  Tensor dx = at::matmul(left, vt);
  if (beyond_v) dx = dx + at::matmul(f.u, inverse.transpose(1, 2) * at::matmul(ut, g));
  return dx;
}

struct Through : torch::autograd::Function<Through> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& correction,
                        const Tensor& factor, const Tensor& u, const Tensor& s, const Tensor& v,
                        bool partial, double eps) {
    context->save_for_backward({factor, u, s, v});
    context->saved_data["partial"] = partial;
    context->saved_data["eps"] = eps;
    context->saved_data["type"] = static_cast<int64_t>(x.scalar_type());
    return correction.clone();
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    check(!at::GradMode::is_enabled(), "model.conditioning.gradient",
          "'through' cannot be differentiated twice; valid: detached");
    const WithoutAutocast guard;
    const variable_list saved = context->get_saved_variables();
    const Factors f{saved[1], saved[2], saved[3], context->saved_data["partial"].toBool()};
    const Tensor g = gradients[0].to(f.u.scalar_type()) * saved[0];
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    variable_list all(8);
    all[0] = gradient_of(g, f, context->saved_data["eps"].toDouble()).to(type);
    return all;
  }
};

/// Q and s1 by the iteration; false where auto finds that it has not converged.
bool iterate(const Tensor& x, const PolarOptions& options, Tensor& q, Tensor& largest) {
  const bool automatic = options.method == "auto";
  const bool only_correction = options.gradient == "detached" && options.min_kappa <= 0;
  if (automatic && !(only_correction && x.scalar_type() == at::kFloat &&
                     std::min(x.size(1), x.size(2)) >= kIterated))
    return false;
  if (!automatic && options.method != "newton_schulz") return false;
  largest = largest_by_power(x);
  q = by_iteration(x, largest, options.iterations);
  return !automatic || converged(q);
}

/// The factors as options.method has them, and which method that was.
Factors decompose(const Tensor& x, const PolarOptions& options, std::string& method) {
  method = "svd";
  if (options.method == "svd") return by_svd(x);
  Factors f = by_gram(x, options.eps);
  method = "gram64";
  if (options.method != "auto" || x.scalar_type() != at::kDouble) return f;
  if (condition(f.s).max().item<double>() <= kGramCondition) return f;
  method = "svd";
  f = by_svd(x);
  const double resolved =
      std::max(options.eps, static_cast<double>(std::max(x.size(1), x.size(2))) *
                                std::numeric_limits<double>::epsilon());
  return only(f, f.s > resolved * f.s.narrow(1, 0, 1));
}

}  // namespace

void PolarOptions::describe(OptionSet& o) {
  o.add("gradient", gradient,
        "of the correction: detached treats it as a constant, through differentiates it exactly",
        one_of({"detached", "through"}));
  o.add("method", method,
        "how the polar factor is found: auto chooses by size, type and condition; svd is exact and "
        "slow; gram64 takes a Gram matrix in float64; newton_schulz multiplies matrices only (with "
        "gradient = through or min_kappa it needs gram64 besides)",
        one_of({"auto", "svd", "gram64", "newton_schulz"}));
  o.add("iterations", iterations,
        "steps of newton_schulz; ln(kappa) / ln(1.5) + 4 are needed for condition number kappa",
        at_least(1));
  o.add("scale", scale,
        "the correction as a multiple of the largest singular value; 1 brings the condition number "
        "to 2 at most",
        above(0));
  o.add("min_kappa", min_kappa,
        "leave samples whose condition number is at most this as they are; 0 = correct all",
        at_least(0));
  o.add("eps", eps, "least singular value that is divided by, relative to the largest",
        between(0, 0.1));
}

Polar polar_of(const Tensor& x, const PolarOptions& options, const std::string& where,
               bool refuse_zeros) {
  const NumbersOnly guard;
  const Tensor data = x.detach().to(at::promote_types(x.scalar_type(), at::kFloat));
  if (!data.sum().isfinite().item<bool>())
    fail(where, "the embedded tokens hold numbers that are not finite, or their sum is not");
  Polar polar;
  Tensor q, largest;
  const bool iterated = iterate(data, options, q, largest);
  const bool through = options.gradient == "through", some = options.min_kappa > 0;
  Factors f;
  if (!iterated || through || some) f = decompose(data, options, polar.method);
  if (iterated) {
    polar.method = "newton_schulz";
  } else {
    q = at::matmul(f.u, f.v.transpose(1, 2));
    largest = f.s.narrow(1, 0, 1).unsqueeze(2);
  }
  if (refuse_zeros) check_rank(largest, where);
  polar.factor = at::full({data.size(0), 1, 1}, options.scale, data.options());
  if (some) polar.factor.masked_fill_((condition(f.s) <= options.min_kappa).view({-1, 1, 1}), 0.0);
  polar.correction = (q * (largest * polar.factor)).to(x.scalar_type());
  if (!through) return polar;
  const auto type = data.scalar_type();
  polar.u = f.u.to(type);
  polar.s = f.s.to(type);
  polar.v = f.v.to(type);
  polar.partial = f.partial;
  return polar;
}

Tensor correction_of(const Tensor& x, const Polar& polar, const PolarOptions& options) {
  if (options.gradient == "detached") return polar.correction;
  return Through::apply(x, polar.correction, polar.factor, polar.u, polar.s, polar.v, polar.partial,
                        options.eps);
}

Tensor inverse_root(const Tensor& symmetric, double min_kappa) {
  const NumbersOnly guard;
  const auto [values, vectors] = at::linalg_eigh(symmetric.detach().to(at::kDouble));
  const Tensor largest = values.select(0, -1);
  const double least = std::max(values[0].item<double>(), 0.0);
  if (largest.item<double>() <= min_kappa * min_kappa * least) return at::zeros_like(vectors);
  const Tensor roots = (largest / (values.clamp_min(0) + kRidge * largest)).sqrt();
  return at::matmul(vectors * roots, vectors.t());
}

}  // namespace formwork
