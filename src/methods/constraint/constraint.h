// Axis "constraint": what is enforced on gradients before and on weights after each step.
#pragma once

#include <cmath>

#include "core/registry.h"
#include "methods/module.h"

namespace formwork {

struct ConstraintSite {};

class Constraint {
 public:
  static constexpr const char* kAxis = "constraint";
  using Context = ConstraintSite;
  struct Traits {};

  virtual ~Constraint() = default;
  /// Once, before the optimizer is built: may set Parameter::decay and Parameter::rate.
  virtual void prepare(std::vector<Parameter>& parameters) const { (void)parameters; }
  /// After the gradients are there and before the step.
  virtual void before_step(const std::vector<Parameter>& parameters) { (void)parameters; }
  /// After the step; rate is the learning rate just used.
  virtual void after_step(const std::vector<Parameter>& parameters, double rate) {
    (void)parameters;
    (void)rate;
  }
  /// The L2 norm over all gradients that the last before_step met, where it computed one; else NaN.
  virtual double last_norm() const { return std::nan(""); }
};

/// The gradients that are there.
std::vector<Tensor> gradients_of(const std::vector<Parameter>& parameters);

}  // namespace formwork
