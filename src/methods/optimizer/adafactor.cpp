#include <cmath>

#include "methods/optimizer/optimizer.h"

namespace formwork {
namespace {

struct AdafactorOptions : OptimizerOptions {
  double beta2_decay = -0.8;
  std::optional<double> eps1;
  double eps2 = 1e-3;
  double d = 1.0;

  AdafactorOptions() { lr = 1e-2; }
  void describe(OptionSet& set) {
    describe_common(set);
    set.add("beta2_decay", beta2_decay, "the mean square is averaged with 1 - t^beta2_decay",
            between(-1, 0));
    set.add("eps1", eps1, "floor of the mean square; absent: machine epsilon of the type",
            at_least(0));
    set.add("eps2", eps2, "floor of the parameter's root mean square", at_least(0));
    set.add("d", d, "largest root mean square of a direction", above(0));
  }
};

Tensor root_mean_square(const Tensor& x) {
  return at::linalg_vector_norm(x) / std::sqrt(static_cast<double>(x.numel()));
}

double machine_epsilon(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                        : std::numeric_limits<float>::epsilon();
}

/// Adam without a mean and with the mean square of a matrix kept as one number a row R [.., r, 1]
/// and one a column C [.., 1, c] (more than two dimensions: the first ones are a batch):
/// V = RC / max(mean(R), ε₁), floored at ε₁²; U = g/sqrt(V), clipped to root mean square d; steps
/// are relative to the parameter: p -= max(ε₂, rms(p)) · min(η, 1/sqrt(t)) · U.
/// Shazeer & Stern 2018, arXiv 1804.04235, in PyTorch's form (the paper adds ε₁ to g²).
class Adafactor final : public Optimizer {
 public:
  Adafactor(const AdafactorOptions& options, const OptimizerSite& site)
      : Optimizer(options, site),
        options_(options),
        row_(add_slot("row", [](const Tensor& p) { return factor_of(p, -1); })),
        column_(add_slot("column", [](const Tensor& p) { return factor_of(p, -2); })),
        square_(add_slot(
            "square", [](const Tensor& p) { return p.dim() < 2 ? at::zeros_like(p) : Tensor(); })) {
  }

 private:
  static Tensor factor_of(const Tensor& value, int64_t averaged) {
    if (value.dim() < 2) return {};
    std::vector<int64_t> shape = value.sizes().vec();
    shape[static_cast<size_t>(value.dim() + averaged)] = 1;
    return at::zeros(shape, value.options());
  }

  Tensor mean_square(size_t i, const Tensor& gradient, double kept_out, double eps1) {
    const Tensor squares = gradient * gradient;
    if (!row_[i].defined()) return square_[i].lerp_(squares, kept_out).clamp_min(eps1 * eps1);
    row_[i].lerp_(squares.mean({-1}, /*keepdim=*/true), kept_out);
    column_[i].lerp_(squares.mean({-2}, /*keepdim=*/true), kept_out);
    const Tensor scale = row_[i].mean({-2}, /*keepdim=*/true).clamp_min_(eps1);
    return at::matmul(row_[i] / scale, column_[i]).clamp_min_(eps1 * eps1);
  }

  void update(double factor, const std::vector<Tensor>& gradients) override {
    for_each(gradients, [&](size_t i, const Tensor& gradient) {
      const Tensor& value = values_[i];
      if (value.numel() == 0) return;
      const double t = static_cast<double>(count(i));
      const double relative = std::min(rate_of(factor, parameters_[i]), 1.0 / std::sqrt(t));
      const Tensor size = root_mean_square(value).clamp_min_(options_.eps2) * relative;
      const double lost = shrinkage(factor, parameters_[i]);
      if (lost > 0) value.mul_(1.0 - lost);
      const double eps1 = options_.eps1.value_or(machine_epsilon(value));
      const Tensor direction =
          mean_square(i, gradient, std::pow(t, options_.beta2_decay), eps1).rsqrt_().mul_(gradient);
      const Tensor excess = (root_mean_square(direction) / options_.d).clamp_min_(1.0);
      value.sub_(direction.mul_(size / excess));
    });
  }

  AdafactorOptions options_;
  std::vector<Tensor>& row_;
  std::vector<Tensor>& column_;
  std::vector<Tensor>& square_;
};

const Register<Optimizer, Adafactor, AdafactorOptions> adafactor{
    "adafactor", "mean squares by rows and columns, steps relative to the parameter",
    cite("1804.04235"), specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
