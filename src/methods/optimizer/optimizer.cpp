#include "methods/optimizer/optimizer.h"

#include <ATen/core/grad_mode.h>

#include <set>
#include <tuple>

#include "methods/sparse_gradient.h"

namespace formwork {
namespace {

constexpr const char* kMaster = "master";
constexpr const char* kSteps = "steps";
constexpr const char* kSkipped = "skipped";

bool needs_master(const Tensor& tensor) {
  return tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kDouble;
}

Tensor integer_tensor(int64_t value) {
  return at::full({}, value, at::kLong);
}

bool all_finite(const std::vector<Tensor>& gradients) {
  // A sum is not finite where a summand is not; where it overflows instead, look at every number.
  for (const Tensor& gradient : gradients)
    if (gradient.defined() && !std::isfinite(touched(gradient).sum().item<double>()) &&
        !touched(gradient).isfinite().all().item<bool>())
      return false;
  return true;
}

void check_same_form(const std::string& name, const Tensor& saved, const Tensor& own) {
  check(saved.sizes() == own.sizes(), "optimizer state", "'", name, "' has shape ", saved.sizes(),
        " in the saved state, but ", own.sizes(), " here");
  check(saved.scalar_type() == own.scalar_type(), "optimizer state", "'", name, "' is of type ",
        saved.scalar_type(), " in the saved state, but ", own.scalar_type(), " here");
}

}  // namespace

void OptimizerOptions::describe_common(OptionSet& set, std::vector<std::string> conventions) {
  set.add("lr", lr, "learning rate, which the schedule multiplies", at_least(0));
  set.add("weight_decay", weight_decay, "weight decay", at_least(0));
  set.add(
      "decay", decay,
      "how the weight decay w acts: times_lr (p -= lr w p), independent (p -= w p) or l2 (added "
      "to the gradient)",
      one_of(std::move(conventions)));
  set.add("independent_follows_schedule", independent_follows_schedule,
          "multiply the independent decay by the schedule's factor");
  set.add("maximize", maximize, "go up instead of down");
  set.add("skip_nonfinite", skip_nonfinite,
          "leave a step out (and count it) when a gradient is not finite");
}

Optimizer::Optimizer(const OptimizerOptions& options, const OptimizerSite& site)
    : parameters_(site.parameters), options_(options), counts_(parameters_.size(), 0) {
  const at::NoGradGuard no_grad;
  std::set<std::string> names;
  std::vector<Tensor> masters;
  for (const Parameter& parameter : parameters_) {
    check(parameter.tensor.defined() && parameter.tensor.is_floating_point(), "optimizer",
          "parameter '", parameter.name, "' is not of a floating-point type");
    check(names.insert(parameter.name).second, "optimizer", "two parameters are called '",
          parameter.name, "'; names must differ, since the state is saved by them");
    masters.push_back(needs_master(parameter.tensor) ? parameter.tensor.to(at::kFloat) : Tensor());
    values_.push_back(masters.back().defined() ? masters.back() : parameter.tensor);
  }
  slots_[kMaster] = std::move(masters);
}

void Optimizer::step(double factor) {
  check_step();
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> gradients = collect_gradients();
  if (options_.skip_nonfinite && !all_finite(gradients)) {
    ++skipped_;
    return;
  }
  for (size_t i = 0; i < gradients.size(); ++i) counts_[i] += gradients[i].defined();
  update(factor, gradients);
  for_each(gradients, [this](size_t i, const Tensor&) { publish(i); });
}

std::vector<Tensor> Optimizer::collect_gradients() const {
  std::vector<Tensor> gradients(parameters_.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Tensor& gradient = parameters_[i].tensor.grad();
    if (!gradient.defined()) continue;
    gradients[i] = gradient.to(values_[i].scalar_type());
    if (gradient.is_sparse() && !takes_rows()) gradients[i] = gradients[i].to_dense();
    if (!gradients[i].is_sparse()) gradients[i] = gradients[i].contiguous();
    if (options_.maximize) gradients[i] = -gradients[i];
  }
  return gradients;
}

void Optimizer::publish(size_t i) {
  const at::NoGradGuard no_grad;
  if (slots_[kMaster][i].defined()) parameters_[i].tensor.copy_(values_[i]);
}

void Optimizer::zero_grad() {
  for (Parameter& parameter : parameters_) parameter.tensor.mutable_grad() = Tensor();
}

std::vector<Tensor>& Optimizer::add_slot(const std::string& name,
                                         const std::function<Tensor(const Tensor&)>& start) {
  const at::NoGradGuard no_grad;
  std::vector<Tensor>& slot = slots_[name];
  for (const Tensor& value : values_)
    slot.push_back(start ? start(value) : at::zeros_like(value, at::MemoryFormat::Contiguous));
  return slot;
}

std::map<std::string, Tensor> Optimizer::state() const {
  std::map<std::string, Tensor> state{{kSkipped, integer_tensor(skipped_)}};
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state[std::string(kSteps) + "." + parameters_[i].name] = integer_tensor(counts_[i]);
    for (const auto& [name, tensors] : slots_)
      if (tensors[i].defined()) state[name + "." + parameters_[i].name] = tensors[i];
  }
  return state;
}

void Optimizer::load_state(const std::map<std::string, Tensor>& state) {
  const at::NoGradGuard no_grad;
  const std::map<std::string, Tensor> own = Optimizer::state();
  for (const auto& [name, tensor] : own) {
    const auto saved = state.find(name);
    check(saved != state.end(), "optimizer state", "the saved state lacks '", name,
          "'; it must come from the same optimizer on the same model");
    check_same_form(name, saved->second, tensor);
  }
  for (const auto& [name, tensor] : state)
    check(own.count(name) > 0, "optimizer state", "the saved state holds '", name,
          "', which this optimizer lacks; it must come from the same optimizer on the same model");
  for (const auto& [name, tensor] : own) Tensor(tensor).copy_(state.at(name));
  skipped_ = state.at(kSkipped).item<int64_t>();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    counts_[i] = state.at(std::string(kSteps) + "." + parameters_[i].name).item<int64_t>();
    publish(i);
  }
}

std::vector<Optimizer::Group> Optimizer::groups(const std::vector<Tensor>& gradients) const {
  using Key = std::tuple<double, double, int64_t, at::ScalarType, c10::DeviceType, int>;
  std::map<Key, std::vector<size_t>> sorted;
  for_each(gradients, [&](size_t i, const Tensor&) {
    const c10::Device device = values_[i].device();
    sorted[{parameters_[i].rate, parameters_[i].decay, counts_[i], values_[i].scalar_type(),
            device.type(), device.index()}]
        .push_back(i);
  });
  std::vector<Group> groups;
  for (auto& [key, members] : sorted)
    groups.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), std::move(members)});
  return groups;
}

void Optimizer::for_each(const std::vector<Tensor>& gradients,
                         const std::function<void(size_t, const Tensor&)>& one) {
  for (size_t i = 0; i < gradients.size(); ++i)
    if (gradients[i].defined()) one(i, gradients[i]);
}

Tensor Optimizer::rows_of(const Tensor& gradient, int64_t first, int64_t count) {
  if (!gradient.is_sparse()) return gradient.narrow(0, first, count);
  const Tensor rows = gradient._indices().select(0, 0);
  const int64_t begin = at::searchsorted(rows, at::Scalar(first)).item<int64_t>();
  const int64_t end = at::searchsorted(rows, at::Scalar(first + count)).item<int64_t>();
  const Tensor values = gradient._values();
  std::vector<int64_t> shape = gradient.sizes().vec();
  shape[0] = count;
  return at::zeros(shape, values.options())
      .index_copy_(0, rows.slice(0, begin, end) - first, values.slice(0, begin, end));
}

std::vector<Tensor> Optimizer::pick(const std::vector<Tensor>& all, const Group& group) {
  std::vector<Tensor> picked;
  for (const size_t i : group.members) picked.push_back(all[i]);
  return picked;
}

double Optimizer::shrinkage(double factor, double rate, double decay_factor) const {
  if (options_.decay == "l2") return 0.0;
  const double decay = options_.weight_decay * decay_factor;
  if (options_.decay == "times_lr") return rate * decay;
  return options_.independent_follows_schedule ? factor * decay : decay;
}

double Optimizer::penalty(double decay_factor) const {
  return options_.decay == "l2" ? options_.weight_decay * decay_factor : 0.0;
}

}  // namespace formwork
