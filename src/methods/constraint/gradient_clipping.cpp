#include <ATen/core/grad_mode.h>

#include "kernels/cuda/binding.h"
#include "methods/constraint/constraint.h"

namespace formwork {
namespace {

struct GradientClippingOptions {
  double max_norm = 1.0;
  void describe(OptionSet& set) {
    set.add("max_norm", max_norm, "largest L2 norm over all gradients together", above(0));
  }
};

/// All gradients times min(1, c/(norm + 1e-6)), norm the L2 norm over all of them.
/// Pascanu et al. 2013, arXiv 1211.5063.
class GradientClipping final : public Constraint {
 public:
  GradientClipping(const GradientClippingOptions& options, const ConstraintSite&)
      : options_(options) {}

  void before_step(const std::vector<Parameter>& parameters) override {
    const at::NoGradGuard no_grad;
    norm_ = Tensor();
    const std::vector<Tensor> gradients = gradients_of(parameters);
    if (gradients.empty()) return;
    if constexpr (gpu::kBuilt) {
      if (gpu::serves_arrays(gradients)) {
        norm_ = gpu::clip_gradients(gradients, options_.max_norm);
        return;
      }
    }
    std::vector<Tensor> norms = at::_foreach_norm(gradients);
    for (Tensor& norm : norms) norm = norm.to(at::kDouble);
    norm_ = at::linalg_vector_norm(at::stack(norms));
    // On an accelerator the number is left where it is, so that the step need not wait for it.
    if (norm_.is_cpu()) {
      const double norm = norm_.item<double>();
      // A gradient that is not finite stays as it is, for the optimizer or the trainer to find.
      if (norm + kMargin <= options_.max_norm || !std::isfinite(norm)) return;
    }
    const Tensor scale = (options_.max_norm / (norm_ + kMargin)).clamp_max_(1.0);
    for (const Tensor& gradient : gradients) gradient.mul_(scale);
  }

  double last_norm() const override {
    return norm_.defined() ? norm_.item<double>() : std::nan("");
  }

 private:
  static constexpr double kMargin = 1e-6;

  GradientClippingOptions options_;
  Tensor norm_;
};

const Register<Constraint, GradientClipping, GradientClippingOptions> gradient_clipping{
    "gradient_clipping", "the norm over all gradients has a limit", cite("1211.5063"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
