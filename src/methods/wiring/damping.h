// How much a flow with momentum is damped as time goes on.
#pragma once

#include "core/options.h"
#include "methods/module.h"

namespace formwork {

struct DampingOptions {
  std::string damping = "loglin";
  double t0 = 1.0;
  double c_log = 3.0;
  double c_lin = 1e-4;
  double eta_clip = 12.0;
  bool learn_eta = true;
  void describe(OptionSet& o);
};

/// eta(t) = c_log log(t/t0) + c_lin t with trained c > 0; its slope is the damping, and exp(-eta)
/// is what is left of a momentum. Times and values are scalars in float64.
class Damping final : public Module {
 public:
  /// `rate`: factor on the learning rate of its scalars.
  Damping(const DampingOptions& options, double rate);
  /// eta(t) cut at ± eta_clip, for exponentials.
  Tensor eta(const Tensor& t) const;
  /// The slope of eta.
  Tensor slope(const Tensor& t) const;
  /// eta(t + h) - eta(t), cut likewise.
  Tensor change(const Tensor& t, const Tensor& h) const;

 private:
  /// c_log · of_log + c_lin · of_lin.
  Tensor combine(const Tensor& of_log, const Tensor& of_lin) const;
  double t0_, clip_;
  Tensor log_, lin_;  // raw; undefined where the term is absent
};

}  // namespace formwork
