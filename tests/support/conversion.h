// What the tests of conversions share: models by options, and what the two ends compute.
#pragma once

#include "support/tiny_model.h"
#include "training/conversion.h"

namespace formwork::test {

/// A float64 model in evaluation mode whose parameters, gains and shifts too, are random.
inline std::shared_ptr<Model> random_model(const ModelOptions& options, const TaskForm& task,
                                           uint64_t seed = 5) {
  auto model = std::make_shared<Model>(options, task, seed);
  model->to(at::kDouble);
  const auto noise = [&](const std::string& name, const Tensor& tensor) {
    return normal_tensor(tensor.sizes(), 0.3, RandomStream(seed).child(name)).to(at::kDouble);
  };
  for (const Parameter& parameter : model->parameters())
    parameter.tensor.set_data(parameter.tensor.detach() + noise(parameter.name, parameter.tensor));
  // Statistics stay positive, as variances are.
  for (const auto& [name, tensor] : model->buffers())
    if (tensor.is_floating_point()) tensor.set_data(tensor + noise(name, tensor).abs());
  model->eval();
  return model;
}

inline Choice<Transform> transform(const std::string& kind, const Table& options = {}) {
  Choice<Transform> choice(kind);
  choice.set(options);
  return choice;
}

}  // namespace formwork::test
