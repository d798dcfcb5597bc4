// Axis "optimizer": how gradients become steps.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/registry.h"
#include "methods/module.h"

namespace formwork {

/// What an optimizer works on. Parameter::decay and Parameter::rate are factors on its own options.
struct OptimizerSite {
  std::vector<Parameter> parameters;
};

/// Steps are taken on float32 (or float64) values: for bfloat16 or half parameters the base keeps a
/// float32 master, and after each step rounds it into the parameter.
class Optimizer {
 public:
  static constexpr const char* kAxis = "optimizer";
  using Context = OptimizerSite;
  struct Traits {
    bool own_schedule = false;  // combines with a constant schedule (and warm-up) only
  };

  explicit Optimizer(OptimizerSite site);
  virtual ~Optimizer() = default;

  /// One step with learning rate lr · factor · Parameter::rate; parameters without a gradient stay.
  void step(double factor);
  void zero_grad();
  /// The point to train at / the point to evaluate and save (they differ for averaging methods).
  virtual void train() {}
  virtual void eval() {}
  /// Everything a resumed run needs, by name; saved with the checkpoint.
  std::map<std::string, Tensor> state() const;
  /// Refuses missing names and wrong shapes.
  void load_state(const std::map<std::string, Tensor>& state);
  const std::vector<Parameter>& parameters() const { return parameters_; }

 protected:
  /// One step on `values_[i]` with gradient `gradients[i]` (both float32 or float64; undefined =
  /// no gradient), learning rate lr · factor.
  virtual void update(double factor, const std::vector<Tensor>& gradients) = 0;

  /// State tensor `name` of parameter i, made by `start` on first use.
  Tensor& slot(const std::string& name, size_t i);
  Tensor& zeros_slot(const std::string& name, size_t i);
  /// Steps taken, per parameter (a parameter without gradient does not count).
  int64_t& count(size_t i);

  std::vector<Parameter> parameters_;
  std::vector<Tensor> values_;  // the parameter itself, or its float32 master

 private:
  std::map<std::string, std::vector<Tensor>> slots_;
  std::vector<int64_t> counts_;
};

}  // namespace formwork
