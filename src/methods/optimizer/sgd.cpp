#include "methods/optimizer/optimizer.h"

namespace formwork {
namespace {

struct SgdOptions : OptimizerOptions {
  double momentum = 0.9;
  double dampening = 0.0;
  bool nesterov = false;

  SgdOptions() {
    lr = 1e-2;
    decay = "l2";
  }
  void describe(OptionSet& set) {
    describe_common(set, {"l2", "times_lr", "independent"});
    set.add("momentum", momentum, "share of the old direction that is kept", fraction());
    set.add("dampening", dampening, "share of a gradient that is left out of the direction",
            between(0, 1));
    set.add("nesterov", nesterov, "look one momentum step ahead");
    set.require(
        "nesterov", [this] { return !nesterov || (momentum > 0 && dampening == 0); },
        "needs momentum above 0 and dampening 0");
  }
};

/// Stochastic gradient descent with momentum: g += λp; b = μb + (1-τ)g (first step b = g);
/// p -= η(g + μb) with nesterov, else p -= ηb. Sutskever et al. 2013.
class Sgd final : public Optimizer {
 public:
  Sgd(const SgdOptions& options, const OptimizerSite& site)
      : Optimizer(options, site), options_(options) {
    if (options_.momentum > 0) momentum_ = &add_slot("momentum");
  }

 private:
  void update(double factor, const std::vector<Tensor>& gradients) override {
    for (const Group& group : groups(gradients)) {
      const std::vector<Tensor> values = pick(values_, group);
      const double lost = shrinkage(factor, group);
      if (lost > 0) at::_foreach_mul_(values, 1.0 - lost);
      at::_fused_sgd_(values, pick(gradients, group),
                      momentum_ ? pick(*momentum_, group) : std::vector<Tensor>(),
                      penalty(group.decay), options_.momentum, rate_of(factor, group),
                      options_.dampening, options_.nesterov, /*maximize=*/false,
                      /*is_first_step=*/group.count == 1);
    }
  }

  SgdOptions options_;
  std::vector<Tensor>* momentum_ = nullptr;
};

const Register<Optimizer, Sgd, SgdOptions> sgd{"sgd", "gradient descent with momentum",
                                               cite("Sutskever et al. 2013"),
                                               specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
