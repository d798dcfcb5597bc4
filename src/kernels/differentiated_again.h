// For autograd functions whose own gradients know none.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd.h>

namespace formwork {

/// The gradients of those inputs of y that need one, g being y's; undefined for the others. They
/// may be differentiated again, as y was made by plain operators.
inline torch::autograd::variable_list differentiated_again(
    const at::Tensor& y, const torch::autograd::variable_list& inputs, const at::Tensor& g) {
  torch::autograd::variable_list asked, result(inputs.size());
  for (const at::Tensor& input : inputs)
    if (input.defined() && input.requires_grad()) asked.push_back(input);
  const torch::autograd::variable_list found =
      torch::autograd::grad({y}, asked, {g}, /*retain_graph=*/true, /*create_graph=*/true);
  for (size_t i = 0, next = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && inputs[i].requires_grad()) result[i] = found[next++];
  return result;
}

}  // namespace formwork
