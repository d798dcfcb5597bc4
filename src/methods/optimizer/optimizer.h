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

/// What every optimizer can be told; methods derive from it and set their own defaults.
struct OptimizerOptions {
  double lr = 1e-3;
  double weight_decay = 0.0;
  std::string decay = "times_lr";
  bool independent_follows_schedule = false;
  bool maximize = false;
  bool skip_nonfinite = false;

 protected:
  /// Adds the keys above; `conventions` are those of the weight decay that the method knows.
  void describe_common(OptionSet& set,
                       std::vector<std::string> conventions = {"times_lr", "independent"});
};

/// Steps are taken on float32 (or float64) values: for bfloat16 or half parameters the base keeps a
/// float32 master, and after each step rounds it into the parameter. An optimizer is built when its
/// parameters have their final type and device.
class Optimizer {
 public:
  static constexpr const char* kAxis = "optimizer";
  using Context = OptimizerSite;
  struct Traits {
    bool own_schedule = false;  // combines with a constant schedule (and warm-up) only
  };

  /// Refuses parameters that are not floating point and names that occur twice.
  Optimizer(const OptimizerOptions& options, const OptimizerSite& site);
  virtual ~Optimizer() = default;

  /// One step with learning rate lr · factor · Parameter::rate; parameters without a gradient stay.
  void step(double factor);
  void zero_grad();
  /// The point to train at / the point to evaluate and save (they differ for averaging methods).
  virtual void train() {}
  virtual void eval() {}
  /// Everything a resumed run needs, by name; saved with the checkpoint. Shares memory with the
  /// optimizer: save it before the next step.
  virtual std::map<std::string, Tensor> state() const;
  /// Copies a saved state in; refuses missing and unknown names and wrong shapes or types, and then
  /// changes nothing.
  virtual void load_state(const std::map<std::string, Tensor>& state);
  const std::vector<Parameter>& parameters() const { return parameters_; }
  double lr() const { return options_.lr; }
  /// Steps left out because a gradient was not finite (option skip_nonfinite).
  int64_t skipped() const { return skipped_; }

 protected:
  /// Parameters with a gradient that share all a fused operator takes once: factors, type, device
  /// and number of steps.
  struct Group {
    double rate, decay;  // Parameter::rate, Parameter::decay
    int64_t count;       // steps, this one included
    std::vector<size_t> members;
  };

  /// One step on values_[i] with gradients[i] (of the type of values_[i]; undefined = no gradient).
  /// Runs without recording gradients; counts are already increased.
  virtual void update(double factor, const std::vector<Tensor>& gradients) = 0;
  /// Whether update() knows what to do with a coalesced sparse gradient, as tables have it of which
  /// a batch touches few rows (rows_of); others get it dense.
  virtual bool takes_rows() const { return false; }
  /// Rows first .. first + count - 1 of a gradient, dense.
  static Tensor rows_of(const Tensor& gradient, int64_t first, int64_t count);
  /// Called before the step; for methods that cannot step in every state.
  virtual void check_step() const {}

  std::vector<Group> groups(const std::vector<Tensor>& gradients) const;
  /// Calls `one` for each parameter with a gradient.
  static void for_each(const std::vector<Tensor>& gradients,
                       const std::function<void(size_t i, const Tensor& gradient)>& one);
  static std::vector<Tensor> pick(const std::vector<Tensor>& all, const Group& group);

  /// Makes the state tensor `name` of every parameter, zeros or what `start` gives (undefined: that
  /// parameter has none). The reference stays valid. To be called in constructors only, so that a
  /// loaded state can be checked.
  std::vector<Tensor>& add_slot(const std::string& name,
                                const std::function<Tensor(const Tensor& value)>& start = {});

  /// Steps taken by parameter i (a step without gradient does not count).
  int64_t count(size_t i) const { return counts_[i]; }
  /// The learning rate of a parameter or group.
  template <class Factors>
  double rate_of(double factor, const Factors& factors) const {
    return options_.lr * factor * factors.rate;
  }
  /// The share of itself that a parameter or group loses in a step to decoupled weight decay.
  template <class Factors>
  double shrinkage(double factor, const Factors& factors) const {
    return shrinkage(factor, rate_of(factor, factors), factors.decay);
  }
  /// The same where the method has a learning rate of its own.
  double shrinkage(double factor, double rate, double decay_factor) const;
  /// The weight decay that is added to the gradient (convention l2), else 0.
  double penalty(double decay_factor) const;
  /// Rounds the master of parameter i, if it has one, into the parameter.
  void publish(size_t i);

  std::vector<Parameter> parameters_;
  std::vector<Tensor> values_;  // the parameter itself, or its float32 master

 private:
  std::vector<Tensor> collect_gradients() const;

  OptimizerOptions options_;
  std::map<std::string, std::vector<Tensor>> slots_;
  std::vector<int64_t> counts_;
  int64_t skipped_ = 0;
};

}  // namespace formwork
