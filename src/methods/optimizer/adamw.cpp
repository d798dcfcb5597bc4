#include "methods/optimizer/adam.h"

namespace formwork {
namespace {

struct AdamWOptions : AdamOptions {
  AdamWOptions() {
    weight_decay = 0.01;
    decay = "times_lr";
  }
  void describe(OptionSet& set) {
    describe_common(set);
    describe_moments(set);
  }
};

/// Adam with weight decay apart from the gradient: p ← p(1-ηλ) before the step, or p(1-λ) where
/// `decay` is independent (the paper's form: times the schedule's factor, but not the learning
/// rate). Loshchilov & Hutter 2019, arXiv 1711.05101.
class AdamW final : public Adam {
 public:
  AdamW(const AdamWOptions& options, const OptimizerSite& site) : Adam(options, site) {}
};

const Register<Optimizer, AdamW, AdamWOptions> adamw{
    "adamw", "Adam with weight decay apart from the gradient", cite("1711.05101"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
