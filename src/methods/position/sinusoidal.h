// The table of sines and cosines of Vaswani et al. 2017.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace formwork {

/// positions [...] → float64 [..., D]: sin and cos of p / base^(2i/D) for i = 0 .. ceil(D/2)-1.
/// `layout`: interleaved (sin, cos, sin, cos ...; an odd D drops the last cosine), concat (all
/// sines, then all cosines) or tensor2tensor (concat with frequencies base^(-i/(D/2-1))).
at::Tensor sinusoidal_table(const at::Tensor& positions, int64_t width, double base,
                            const std::string& layout);

}  // namespace formwork
