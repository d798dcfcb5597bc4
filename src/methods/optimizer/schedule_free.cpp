#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "methods/optimizer/optimizer.h"

namespace formwork {
namespace {

constexpr const char* kPoint = "point.";

struct ScheduleFreeOptions : OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  int64_t warmup_steps = 0;
  double r = 0.0;
  double weight_lr_power = 2.0;
  bool decay_at_z = false;

  ScheduleFreeOptions() { lr = 2.5e-3; }
  void describe(OptionSet& set) {
    describe_common(set);
    set.add("beta1", beta1, "share of the average in the point where gradients are taken",
            fraction());
    set.add("beta2", beta2, "decay of the mean of the squared gradients", fraction());
    set.add("eps", eps, "added to the root of the squares", at_least(0));
    set.add("warmup_steps", warmup_steps, "steps over which the learning rate rises", at_least(0));
    set.add("r", r, "power of the step in the weights of the average", at_least(0));
    set.add("weight_lr_power", weight_lr_power,
            "power of the largest learning rate in the weights of the average", at_least(0));
    set.add("decay_at_z", decay_at_z, "weight decay pulls with z instead of y");
    set.require(
        "beta1", [this] { return beta1 > 0; }, "must be above 0");
  }
};

/// AdamW whose schedule is an average: z (base), x (average), y = β₁x + (1-β₁)z (the live
/// parameter, where the gradient is taken). ηₜ = η min(1,(k+1)/warmup); w = (k+1)^r (max η)^2;
/// c = w/Σw; z -= ηₜλy; z -= ηₜ g/(sqrt(v/(1-β₂^{k+1})) + ε); x ← (1-c)x + cz.
/// z and v are kept, x = y/β₁ + (1-1/β₁)z; eval() brings x into the parameters and train() y, bit
/// for bit. Defazio et al. 2024, arXiv 2405.15682.
class ScheduleFree final : public Optimizer {
 public:
  static Traits traits(const ScheduleFreeOptions&) { return {.own_schedule = true}; }

  ScheduleFree(const ScheduleFreeOptions& options, const OptimizerSite& site)
      : Optimizer(options, site),
        options_(options),
        base_(add_slot("base", [](const Tensor& value) { return value.detach().clone(); })),
        square_(add_slot("square")),
        largest_rate_(add_slot("largest_rate", scalar)),
        weight_sum_(add_slot("weight_sum", scalar)) {}

  void train() override {
    if (points_.empty()) return;
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < points_.size(); ++i) set_value(i, points_[i]);
    points_.clear();
  }

  void eval() override {
    if (!points_.empty()) return;
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < values_.size(); ++i) {
      points_.push_back(values_[i].detach().clone());
      // base + (y - base)/β₁ is x, and exactly the parameter before the first step.
      set_value(i, at::sub(values_[i], base_[i]).div_(options_.beta1).add_(base_[i]));
    }
  }

  /// The training point is part of the state, because what is saved as parameters is the average.
  std::map<std::string, Tensor> state() const override {
    std::map<std::string, Tensor> state = Optimizer::state();
    for (size_t i = 0; i < values_.size(); ++i)
      state[kPoint + parameters_[i].name] = points_.empty() ? values_[i].detach() : points_[i];
    return state;
  }

  /// Leaves the optimizer in training mode.
  void load_state(const std::map<std::string, Tensor>& state) override {
    std::map<std::string, Tensor> rest = state;
    std::vector<Tensor> points;
    for (size_t i = 0; i < values_.size(); ++i) {
      const auto found = rest.find(kPoint + parameters_[i].name);
      check(found != rest.end() && found->second.sizes() == values_[i].sizes(), "optimizer state",
            "the saved state lacks 'point.", parameters_[i].name, "' of shape ",
            values_[i].sizes());
      points.push_back(found->second);
      rest.erase(found);
    }
    Optimizer::load_state(rest);
    points_ = std::move(points);
    train();
  }

 private:
  static Tensor scalar(const Tensor&) { return at::zeros({}, at::kDouble); }

  void set_value(size_t i, const Tensor& value) {
    values_[i].copy_(value);
    publish(i);
  }

  void check_step() const override {
    check(points_.empty(), "schedule_free", "step() in eval mode; call train() before");
  }

  /// The share of the new base point in the average.
  double new_share(size_t i, double rate, double k) {
    const double largest = std::max(largest_rate_[i].item<double>(), rate);
    const double weight =
        std::pow(k + 1.0, options_.r) * std::pow(largest, options_.weight_lr_power);
    const double sum = weight_sum_[i].item<double>() + weight;
    largest_rate_[i].fill_(largest);
    weight_sum_[i].fill_(sum);
    return sum > 0 ? weight / sum : 0.0;
  }

  void update(double factor, const std::vector<Tensor>& gradients) override {
    for_each(gradients, [&](size_t i, const Tensor& gradient) {
      const double k = static_cast<double>(count(i) - 1);
      const double warm =
          options_.warmup_steps > 0
              ? std::min(1.0, (k + 1.0) / static_cast<double>(options_.warmup_steps))
              : 1.0;
      const double rate = rate_of(factor * warm, parameters_[i]);
      const double share = new_share(i, rate, k);
      const Tensor &y = values_[i], &z = base_[i];
      square_[i].mul_(options_.beta2).addcmul_(gradient, gradient, 1.0 - options_.beta2);
      const double root = std::sqrt(1.0 - std::pow(options_.beta2, k + 1.0));
      Tensor move = square_[i].sqrt().div_(root).add_(options_.eps).reciprocal_().mul_(gradient);
      move.mul_(rate);
      const double lost = shrinkage(factor * warm, parameters_[i]);
      if (lost > 0) move.add_(options_.decay_at_z ? z : y, lost);
      // y' = β₁x' + (1-β₁)z' with x' = (1-c)x + cz' and z' = z - move
      y.lerp_(z, share).sub_(move, 1.0 - options_.beta1 * (1.0 - share));
      z.sub_(move);
    });
  }

  ScheduleFreeOptions options_;
  std::vector<Tensor>& base_;
  std::vector<Tensor>& square_;
  std::vector<Tensor>& largest_rate_;
  std::vector<Tensor>& weight_sum_;
  std::vector<Tensor> points_;  // y, while in eval mode
};

const Register<Optimizer, ScheduleFree, ScheduleFreeOptions> schedule_free{
    "schedule_free", "AdamW with averaging instead of a schedule", cite("2405.15682"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
