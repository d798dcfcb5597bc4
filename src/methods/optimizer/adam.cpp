#include "methods/optimizer/adam.h"

namespace formwork {

void AdamOptions::describe(OptionSet& set) {
  describe_common(set, {"l2", "times_lr", "independent"});
  describe_moments(set);
}

void AdamOptions::describe_moments(OptionSet& set) {
  set.add("beta1", beta1, "decay of the mean of the gradients", fraction());
  set.add("beta2", beta2, "decay of the mean of their squares", fraction());
  set.add("eps", eps, "added to the root of the squares", at_least(0));
  set.add("amsgrad", amsgrad, "divide by the largest mean square so far");
}

Adam::Adam(const AdamOptions& options, const OptimizerSite& site)
    : Optimizer(options, site),
      options_(options),
      mean_(add_slot("mean")),
      square_(add_slot("square")) {
  if (options_.amsgrad) largest_ = &add_slot("largest");
}

void Adam::update(double factor, const std::vector<Tensor>& gradients) {
  for (const Group& group : groups(gradients)) {
    const std::vector<Tensor> values = pick(values_, group);
    const std::vector<Tensor> given = pick(gradients, group);
    const std::vector<Tensor> means = pick(mean_, group), squares = pick(square_, group);
    const std::vector<Tensor> largest = largest_ ? pick(*largest_, group) : std::vector<Tensor>();
    const Tensor steps = at::full({}, group.count, values[0].options().dtype(at::kFloat));
    const std::vector<Tensor> counts(values.size(), steps);
    const double rate = rate_of(factor, group);
    const auto& o = options_;
    if (o.decay == "l2") {
      at::_fused_adam_(values, given, means, squares, largest, counts, rate, o.beta1, o.beta2,
                       penalty(group.decay), o.eps, o.amsgrad, /*maximize=*/false);
      continue;
    }
    const bool fused_decay = o.decay == "times_lr";
    if (!fused_decay && shrinkage(factor, group) > 0)
      at::_foreach_mul_(values, 1.0 - shrinkage(factor, group));
    at::_fused_adamw_(values, given, means, squares, largest, counts, rate, o.beta1, o.beta2,
                      fused_decay ? o.weight_decay * group.decay : 0.0, o.eps, o.amsgrad,
                      /*maximize=*/false);
  }
}

namespace {

const Register<Optimizer, Adam, AdamOptions> adam{
    "adam", "steps divided by the root mean square of the gradients", cite("1412.6980"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
