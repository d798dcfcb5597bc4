// Parameters, gradients and comparisons for the tests of optimizers.
#pragma once

#include <algorithm>

#include "methods/optimizer/optimizer.h"

namespace formwork {

inline std::shared_ptr<Optimizer> make(const std::string& kind, OptimizerSite site,
                                       const Table& options = {}) {
  return Choice<Optimizer>(kind).set(options).make(site);
}

inline OptimizerSite site_of(at::ScalarType type = at::kDouble) {
  OptimizerSite site;
  const std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {
      {"matrix", {4, 4}}, {"wide", {3, 6}}, {"vector", {5}}, {"scalar", {}}, {"cube", {2, 3, 2}}};
  for (const auto& [name, shape] : shapes) {
    Tensor start = normal_tensor(shape, 1.0, RandomStream(1).child(name)).to(type);
    site.parameters.push_back({name, start.requires_grad_(true)});
  }
  return site;
}

inline void give_gradients(const OptimizerSite& site, uint64_t step, double scale = 1.0) {
  for (const Parameter& parameter : site.parameters)
    parameter.tensor.mutable_grad() =
        (scale * normal_tensor(parameter.tensor.sizes(), 1.0,
                               RandomStream(2).child(parameter.name).child(step)))
            .to(parameter.tensor.scalar_type());
}

inline std::vector<Tensor> values(const OptimizerSite& site) {
  std::vector<Tensor> all;
  for (const Parameter& parameter : site.parameters)
    all.push_back(parameter.tensor.detach().clone());
  return all;
}

inline std::vector<std::string> kinds() {
  return Registry<Optimizer>::instance().names();
}

inline std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline double largest_gap(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double gap = 0;
  for (size_t i = 0; i < a.size(); ++i)
    gap = std::max(gap, (a[i] - b[i]).abs().max().item<double>());
  return gap;
}

}  // namespace formwork
