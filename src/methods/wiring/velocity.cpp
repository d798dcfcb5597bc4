#include "methods/wiring/velocity.h"

#include "methods/wiring/scalars.h"

namespace formwork {

VelocityStep::VelocityStep(const VelocityStepOptions& options, const Site& site) {
  const double rate = options.scalar_rate;
  mu_ = add_parameter("mu.raw", raw_share(0.9), Role::other, rate);
  gamma_ = add_parameter("gamma.raw", raw_positive(1.0), Role::other, rate);
  norm_in_ = add_module("norm_in", site.make_norm(site.width));
  if (!options.kept) return;
  beta_ = add_parameter("beta.raw", raw_share(0.9), Role::other, rate);
  norm_v_ = add_module("norm_v", options.norm_v ? options.norm_v : site.make_norm(site.width));
}

void VelocityStep::forward(Stream& stream, Tensor& velocity, const Sublayer& branch) const {
  const Tensor ahead = velocity.defined() ? stream.x + as_share(mu_) * velocity : stream.x;
  const Tensor push = as_positive(gamma_) * branch(norm_in_->forward(ahead, stream.valid));
  if (push.size(1) != stream.x.size(1)) {
    // A mixer that shortens the sequence says how for the residual; the velocity goes the same way.
    stream.x = stream.resample(stream.x);
    if (velocity.defined()) velocity = stream.resample(velocity);
    stream.resample = nullptr;
  }
  if (!norm_v_) {
    stream.x = stream.x + push;
    return;
  }
  const Tensor sum = velocity.defined() ? as_share(beta_) * velocity + push : push;
  velocity = norm_v_->forward(sum, stream.valid);
  stream.x = stream.x + velocity;
}

}  // namespace formwork
