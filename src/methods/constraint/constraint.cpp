#include "methods/constraint/constraint.h"

#include "methods/sparse_gradient.h"

namespace formwork {

std::vector<Tensor> gradients_of(const std::vector<Parameter>& parameters) {
  std::vector<Tensor> gradients;
  for (const Parameter& parameter : parameters)
    if (parameter.tensor.grad().defined()) gradients.push_back(touched(parameter.tensor.grad()));
  return gradients;
}

}  // namespace formwork
