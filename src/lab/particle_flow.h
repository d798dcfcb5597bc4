// Tokens as particles: what the block sympformer does to them when nothing is trained.
#pragma once

#include <string>

namespace formwork {

/// 256 particles x, p in [256,4] of a law that is not elliptical go through 100 layers of Euler
/// steps without norms; the residual of the best affine map [x;p] → [x;p], as a part of the end's
/// spread. With the kernel "linear" all particles follow one linear map, so that an elliptical law
/// stays elliptical: 0 but for rounding. Stein et al. 2026, arXiv 2603.16535.
double flow_nonlinearity(const std::string& kernel);

/// The energy -1/2 mean xᵀ V x of the linear kernel's flow at time 20 as a multiple of that at 40,
/// for V negative definite: about 4 with momentum and damping 3/t (energy ~ 1/t²), about 2 in
/// first order (~ 1/t).
double energy_decay(bool accelerated);

}  // namespace formwork
