// Pointwise functions of channels, by name.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace formwork {

/// gelu (by erf), gelu_tanh, relu, relu2 = max(0, v)², silu, sigmoid, identity.
const std::vector<std::string>& activation_names();
/// The function of that name; `name` is one of activation_names().
at::Tensor (*activation(const std::string& name))(const at::Tensor& v);

}  // namespace formwork
