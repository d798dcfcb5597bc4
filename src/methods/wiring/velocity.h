// A sublayer that pushes a velocity, which moves the vectors.
#pragma once

#include "methods/wiring/wiring.h"

namespace formwork {

struct VelocityStepOptions {
  double scalar_rate = 1.0;      // factor on the learning rate of the scalars
  bool kept = true;              // the velocity goes on to the next sublayer
  std::shared_ptr<Norm> norm_v;  // of another step that shares it; null = of its own
};

/// u = F(Norm(x + mu v)), v ← Norm_v(beta v + gamma u), x ← x + v: Nesterov's step with trained
/// scalars (YuriiFormer, arXiv 2601.23236). A velocity that is not kept: x ← x + gamma u.
class VelocityStep final : public Module {
 public:
  VelocityStep(const VelocityStepOptions& options, const Site& site);
  /// `branch` is F with its dropout. Changes stream.x and a velocity that is kept; undefined = 0.
  void forward(Stream& stream, Tensor& velocity, const Sublayer& branch) const;
  const std::shared_ptr<Norm>& norm_v() const { return norm_v_; }

 private:
  Tensor mu_, beta_, gamma_;  // raw
  std::shared_ptr<Norm> norm_in_, norm_v_;
};

}  // namespace formwork
