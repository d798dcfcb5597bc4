// Pointwise functions of channels, fused with the bias before them and what comes after.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "kernels/simd/activation_rows.h"

namespace formwork {

using at::Tensor;

/// gelu (by erf), gelu_tanh, relu, relu2, silu, sigmoid, identity.
const std::vector<std::string>& activation_names();
/// Refuses other names, listing the valid ones.
Activation activation_named(const std::string& name);

/// What goes into a function and what is done with what comes out; undefined: left out.
struct ActivationExtras {
  Tensor bias;      // [D], added before the function
  Tensor factor;    // like z, multiplies the result (a gated linear unit)
  Tensor residual;  // like z, added at last
};

/// f(z + bias) · factor + residual, z [..., D] → [..., D], each way one pass over memory. float32,
/// bfloat16 and float16 on the CPU, computed in float32 and rounded once; on a GPU so where a
/// factor is all there is besides z; other types and devices by activate_reference. Hendrycks,
/// Gimpel 2016 (GELU), arXiv 1606.08415; So et al. 2021 (squared ReLU), 2109.08668; Shazeer 2020
/// (gates), 2002.05202.
Tensor activate(const Tensor& z, Activation function, const ActivationExtras& extras = {});

/// The same, which may overwrite z and return it; knows no gradients.
Tensor activate_in_place(const Tensor& z, Activation function, const ActivationExtras& extras = {});

/// The same by plain operators.
Tensor activate_reference(const Tensor& z, Activation function,
                          const ActivationExtras& extras = {});

namespace cpu {

/// All contiguous, of z's type but for the bias, which is float32. y may be z.
void activation_forward(const Tensor& z, Activation function, const ActivationExtras& extras,
                        const Tensor& y);

struct ActivationBackward {
  Tensor z, bias, factor;  // gradients; undefined where there is none to give
};
/// Sums over the rows in an order that does not depend on the number of threads.
ActivationBackward activation_backward(const Tensor& gradient, const Tensor& z, Activation function,
                                       const ActivationExtras& extras);

}  // namespace cpu
}  // namespace formwork
