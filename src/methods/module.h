// Parameters with names and roles, and the tree of modules that holds them.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/random.h"

namespace formwork {

using at::Tensor;

/// What a parameter is for. Optimizers, weight decay rules, muP and constraints select by role.
enum class Role {
  query,
  key,
  value,
  output,  // the linear maps of a mixer
  up,
  gate,
  down,  // the linear maps of a channel
  embedding,
  head,  // the two ends of the model
  position,
  norm,
  bias,
  other
};
const char* role_name(Role role);
/// Refuses unknown names, listing the valid ones.
Role role_from_name(const std::string& name, const std::string& where);

/// One trained tensor.
struct Parameter {
  std::string name;  // full name, such as layers.0.mixer.q_proj.weight
  Tensor tensor;
  Role role = Role::other;
  double decay = 1.0;  // factor on the weight decay
  double rate = 1.0;   // factor on the learning rate
};

/// Where training stands, for what follows a schedule inside the model (warm-up, progressive
/// replacement): a pure function of the step, so that a resumed run goes on unchanged.
struct Elapsed {
  int64_t step = 0;       // steps done before this one
  double fraction = 0.0;  // of the budget used up, 0 to 1
};

/// A node of the model: owns parameters, buffers and children by name.
/// (torch::nn::Module would cost each file four more seconds to compile and knows no roles.)
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// All parameters below, depth first; one that is shared appears once, under its first name.
  std::vector<Parameter> parameters() const;
  /// All buffers below that are saved with the model (running statistics).
  std::vector<std::pair<std::string, Tensor>> buffers() const;
  /// Parameters and buffers by full name.
  std::map<std::string, Tensor> named_tensors() const;
  int64_t parameter_count() const;

  /// Converts every floating-point parameter and buffer in place.
  void to(at::ScalarType type);
  void to(const at::Device& device);
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }
  /// Whether every training pass queues the same operators: the module follows no schedule, counts
  /// no passes, and reads nothing back from the tensors' device. Passes of such modules alone are
  /// replayed on a GPU (train.cuda_graph).
  virtual bool steady() const { return !passes(); }
  /// Told to every module before each training step.
  virtual void before_step(const Elapsed&) {}
  /// What this module counts of passes outside its buffers, if anything: a pass that is run again
  /// (activation checkpointing) starts from the count that it met.
  virtual std::optional<int64_t> passes() const { return std::nullopt; }
  virtual void set_passes(int64_t) {}
  /// Visits this module and all below it once, with dotted names.
  void visit(const std::function<void(const std::string&, Module&)>& visitor);

 protected:
  /// Adds a parameter that requires a gradient and returns it; `rate`: factor on its learning rate.
  Tensor add_parameter(const std::string& name, const Tensor& start, Role role, double rate = 1.0);
  /// Takes a parameter out: it is neither trained nor saved any more, and lives while others hold
  /// it.
  void drop_parameter(const std::string& name);
  /// Adds a tensor that is saved but not trained.
  Tensor add_buffer(const std::string& name, const Tensor& start);
  /// Adds a child under a name; an empty name makes the child's names appear as this module's own.
  template <class M>
  std::shared_ptr<M> add_module(const std::string& name, std::shared_ptr<M> child) {
    if (child) children_.emplace_back(name, child);
    return child;
  }

 private:
  void visit(const std::string& prefix, std::unordered_set<const Module*>& seen,
             const std::function<void(const std::string&, Module&)>& visitor);
  std::vector<Parameter> own_parameters_;
  std::vector<std::pair<std::string, Tensor>> own_buffers_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
  bool training_ = true;
};

/// A CPU generator that belongs to a stream.
at::Generator generator_of(const RandomStream& stream);
/// Normal numbers N(0, deviation²), float32.
Tensor normal_tensor(at::IntArrayRef shape, double deviation, const RandomStream& stream);
/// Uniform numbers in [low, high), float32.
Tensor uniform_tensor(at::IntArrayRef shape, double low, double high, const RandomStream& stream);

}  // namespace formwork
