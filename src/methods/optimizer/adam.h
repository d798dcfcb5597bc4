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
/// amsgrad the largest v so far serves. By fused operators, ours on a GPU and libtorch's elsewhere,
/// one call for all parameters that share their factors. Kingma & Ba 2015, arXiv 1412.6980.
class Adam : public Optimizer {
 public:
  Adam(const AdamOptions& options, const OptimizerSite& site);

 private:
  /// The tensors of the parameters that one fused step moves.
  struct Lists {
    std::vector<Tensor> values, gradients, means, squares, largest;
  };

  void update(double factor, const std::vector<Tensor>& gradients) override;
  bool takes_rows() const override { return true; }
  void step_lists(double factor, const Group& group, const Lists& lists) const;
  /// A step of parameter i, whose gradient is sparse, some rows at a time: what has no gradient
  /// decays too, but its zeros are never in memory all at once.
  void step_by_rows(double factor, const Group& group, size_t i, const Tensor& gradient) const;

  AdamOptions options_;
  std::vector<Tensor>& mean_;
  std::vector<Tensor>& square_;
  std::vector<Tensor>* largest_ = nullptr;
};

}  // namespace formwork
