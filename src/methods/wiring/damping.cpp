#include "methods/wiring/damping.h"

#include "methods/wiring/scalars.h"

namespace formwork {

void DampingOptions::describe(OptionSet& o) {
  o.add("damping", damping,
        "terms of the damping's integral over time, c_log log(t/t0) + c_lin t: log the first, "
        "linear the second, loglin both",
        one_of({"log", "linear", "loglin"}));
  o.add("t0", t0, "time at the first layer", above(0));
  o.add("c_log", c_log, "strength of the first term at the start; 0 = without it", at_least(0));
  o.add("c_lin", c_lin, "strength of the second term at the start; 0 = without it", at_least(0));
  o.add("eta_clip", eta_clip, "largest size of an exponent", above(0));
  o.add("learn_eta", learn_eta, "train both strengths");
}

Damping::Damping(const DampingOptions& options, double rate)
    : t0_(options.t0), clip_(options.eta_clip) {
  const auto add = [&](const char* name, double strength) {
    Tensor raw = add_parameter(name, raw_positive(strength), Role::other, rate);
    return raw.requires_grad_(options.learn_eta);
  };
  if (options.damping != "linear" && options.c_log > 0) log_ = add("eta_log.raw", options.c_log);
  if (options.damping != "log" && options.c_lin > 0) lin_ = add("eta_lin.raw", options.c_lin);
}

Tensor Damping::combine(const Tensor& of_log, const Tensor& of_lin) const {
  Tensor sum = at::zeros_like(of_lin);
  if (log_.defined()) sum = sum + as_positive(log_) * of_log;
  if (lin_.defined()) sum = sum + as_positive(lin_) * of_lin;
  return sum;
}

Tensor Damping::eta(const Tensor& t) const {
  return combine((t / t0_).log(), t).clamp(-clip_, clip_);
}

Tensor Damping::slope(const Tensor& t) const {
  return combine(t.reciprocal(), at::ones_like(t));
}

Tensor Damping::change(const Tensor& t, const Tensor& h) const {
  return combine(((t + h) / t).log(), h).clamp(-clip_, clip_);
}

}  // namespace formwork
