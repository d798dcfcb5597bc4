// Adam and AdamW are one algorithm; they differ in how the weight decay acts.
#pragma once

#include "methods/optimizer/optimizer.h"

namespace formwork {

struct AdamOptions : OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  bool amsgrad = false;

  AdamOptions() { decay = "l2"; }
  void describe(OptionSet& set);

 protected:
  void describe_moments(OptionSet& set);
};

/// m = β₁m + (1-β₁)g; v = β₂v + (1-β₂)g²; p -= η/(1-β₁ᵗ) · m/(sqrt(v)/sqrt(1-β₂ᵗ) + ε); with
/// amsgrad the largest v so far serves. By libtorch's fused operators, one call for all parameters
/// that share their factors. Kingma & Ba 2015, arXiv 1412.6980.
class Adam : public Optimizer {
 public:
  Adam(const AdamOptions& options, const OptimizerSite& site);

 private:
  void update(double factor, const std::vector<Tensor>& gradients) override;

  AdamOptions options_;
  std::vector<Tensor>& mean_;
  std::vector<Tensor>& square_;
  std::vector<Tensor>* largest_ = nullptr;
};

}  // namespace formwork
