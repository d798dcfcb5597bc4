#include "methods/optimizer/optimizer.h"

namespace formwork {
namespace {

struct LionOptions : OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;

  LionOptions() { lr = 1e-4; }
  void describe(OptionSet& set) {
    describe_common(set);
    set.add("beta1", beta1, "weight of the mean gradient in the direction", fraction());
    set.add("beta2", beta2, "decay of the mean gradient", fraction());
  }
};

/// Every number moves by η: p ← p(1-ηλ) - η sign(β₁m + (1-β₁)g), then m = β₂m + (1-β₂)g.
/// Chen et al. 2023, arXiv 2302.06675. (The "decoupled" decay of the common port is `independent`
/// with `independent_follows_schedule`.)
class Lion final : public Optimizer {
 public:
  Lion(const LionOptions& options, const OptimizerSite& site)
      : Optimizer(options, site), options_(options), mean_(add_slot("mean")) {}

 private:
  void update(double factor, const std::vector<Tensor>& gradients) override {
    for_each(gradients, [&](size_t i, const Tensor& gradient) {
      const double lost = shrinkage(factor, parameters_[i]);
      if (lost > 0) values_[i].mul_(1.0 - lost);
      const Tensor direction =
          at::mul(mean_[i], options_.beta1).add_(gradient, 1.0 - options_.beta1).sign_();
      values_[i].sub_(direction, rate_of(factor, parameters_[i]));
      mean_[i].mul_(options_.beta2).add_(gradient, 1.0 - options_.beta2);
    });
  }

  LionOptions options_;
  std::vector<Tensor>& mean_;
};

const Register<Optimizer, Lion, LionOptions> lion{"lion", "the sign of an averaged gradient",
                                                  cite("2302.06675"),
                                                  specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
