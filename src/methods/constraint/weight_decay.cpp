#include <set>

#include "methods/constraint/constraint.h"

namespace formwork {
namespace {

struct WeightDecayOptions {
  std::vector<std::string> roles;
  std::vector<std::string> exclude = {"embedding", "position"};
  int64_t min_dimensions = 2;
  double strength = 1.0;

  void describe(OptionSet& set) {
    set.add("roles", roles, "roles of the parameters that decay; empty: all");
    set.add("exclude", exclude, "roles that do not decay, whatever `roles` says");
    set.add("min_dimensions", min_dimensions, "parameters of fewer dimensions do not decay",
            at_least(0));
    set.add("strength", strength, "factor on the optimizer's weight_decay for those that decay",
            at_least(0));
  }
};

std::set<Role> roles_of(const std::vector<std::string>& names, const std::string& key) {
  std::set<Role> roles;
  for (const std::string& name : names)
    roles.insert(role_from_name(name, "constraint.weight_decay." + key));
  return roles;
}

/// Which parameters the optimizer's weight decay reaches, by role and shape: by default matrices
/// that are not embeddings.
class WeightDecay final : public Constraint {
 public:
  WeightDecay(const WeightDecayOptions& options, const ConstraintSite&)
      : options_(options),
        roles_(roles_of(options.roles, "roles")),
        exclude_(roles_of(options.exclude, "exclude")) {}

  void prepare(std::vector<Parameter>& parameters) const override {
    for (Parameter& parameter : parameters)
      parameter.decay *= decays(parameter) ? options_.strength : 0.0;
  }

 private:
  bool decays(const Parameter& parameter) const {
    return parameter.tensor.dim() >= options_.min_dimensions &&
           (roles_.empty() || roles_.count(parameter.role) > 0) &&
           exclude_.count(parameter.role) == 0;
  }

  WeightDecayOptions options_;
  std::set<Role> roles_, exclude_;
};

const Register<Constraint, WeightDecay, WeightDecayOptions> weight_decay{
    "weight_decay", "which parameters decay, by role and shape", cite("no paper"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
