#include "methods/optimizer/adam.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/binding.h"

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
  for (Group& group : groups(gradients)) {
    std::vector<size_t> dense;
    for (const size_t i : group.members)
      if (gradients[i].is_sparse())
        step_by_rows(factor, group, i, gradients[i]);
      else
        dense.push_back(i);
    group.members = std::move(dense);
    if (group.members.empty()) continue;
    step_lists(factor, group,
               {pick(values_, group), pick(gradients, group), pick(mean_, group),
                pick(square_, group), largest_ ? pick(*largest_, group) : std::vector<Tensor>()});
  }
}

void Adam::step_lists(double factor, const Group& group, const Lists& lists) const {
  const auto& [values, gradients, means, squares, largest] = lists;
  const double rate = rate_of(factor, group);
  const auto& o = options_;
  const bool l2 = o.decay == "l2";
  if (!l2 && o.decay != "times_lr" && shrinkage(factor, group) > 0)
    at::_foreach_mul_(values, 1.0 - shrinkage(factor, group));
  const double decay = l2                      ? penalty(group.decay)
                       : o.decay == "times_lr" ? o.weight_decay * group.decay
                                               : 0.0;
  if constexpr (gpu::kBuilt) {
    if (values[0].scalar_type() == at::kFloat && gpu::serves_arrays(values) &&
        gpu::serves_arrays(gradients)) {
      gpu::adam_step({values, gradients, means, squares, largest},
                     {rate, o.beta1, o.beta2, o.eps, decay, l2, group.count});
      return;
    }
  }
  const Tensor steps = at::full({}, group.count, values[0].options().dtype(at::kFloat));
  const std::vector<Tensor> counts(values.size(), steps);
  if (l2)
    at::_fused_adam_(values, gradients, means, squares, largest, counts, rate, o.beta1, o.beta2,
                     decay, o.eps, o.amsgrad, /*maximize=*/false);
  else
    at::_fused_adamw_(values, gradients, means, squares, largest, counts, rate, o.beta1, o.beta2,
                      decay, o.eps, o.amsgrad, /*maximize=*/false);
}

void Adam::step_by_rows(double factor, const Group& group, size_t i, const Tensor& gradient) const {
  constexpr int64_t kNumbersAtOnce = int64_t{1} << 20;
  const int64_t rows = gradient.size(0), width = std::max<int64_t>(1, gradient.numel() / rows);
  const int64_t most = std::max<int64_t>(1, kNumbersAtOnce / width);
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    const auto part = [&](const Tensor& whole) {
      return std::vector<Tensor>{whole.narrow(0, first, count)};
    };
    step_lists(factor, group,
               {part(values_[i]),
                {rows_of(gradient, first, count)},
                part(mean_[i]),
                part(square_[i]),
                largest_ ? part((*largest_)[i]) : std::vector<Tensor>()});
  }
}

namespace {

const Register<Optimizer, Adam, AdamOptions> adam{
    "adam", "steps divided by the root mean square of the gradients", cite("1412.6980"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
