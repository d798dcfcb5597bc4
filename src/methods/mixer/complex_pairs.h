// Pairs of channels as complex numbers whose phases are scaled and shifted.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

struct PairOptions {
  double magnitude_eps = 0.0;  // added to r² + s² in the magnitude
  double phase_eps = 0.0;      // added to r² + s² where the phase's gradient divides by it
};

/// x [...,N,2P] with pairs (r,s) = (x_c, x_{c+P}) = m (cos th, sin th), th in (-pi, pi] → |x| (cos
/// t, sin t) laid out alike, with t = delta th + shift and |x| = sqrt(m² + magnitude_eps). `delta`
/// and `shift` broadcast to [...,N,P]; they are of x's type, float32 or float64. The phase of (0,
/// 0) is 0 and has no gradient. Shao et al. 2025, arXiv 2505.10222.
Tensor turn_phases(const Tensor& x, const Tensor& delta, const Tensor& shift,
                   const PairOptions& options);
/// The same for delta = 1, where nobody has to know the phase.
Tensor turn_pairs(const Tensor& x, const Tensor& shift, const PairOptions& options);
/// The same as turn_phases by plain operators.
Tensor turn_phases_reference(const Tensor& x, const Tensor& delta, const Tensor& shift,
                             const PairOptions& options);

/// sum_c |q_c| |k_c| cos(delta_c (th_q,c - th_k,c) + shift_c + angle_i,c - angle_j,c) [B,H,Nq,Nk],
/// pair by pair: q [B,H,Nq,2P], k [B,Hkv,Nk,2P], delta [Hkv,1,P], shift [H,1,P], angles [.,1,N,P].
/// O(Nq Nk P) cosines, as the released code has it; to check the separable form with.
Tensor pairwise_scores(const Tensor& q, const Tensor& k, const Tensor& delta, const Tensor& shift,
                       const Tensor& query_angles, const Tensor& key_angles,
                       const PairOptions& options);

}  // namespace formwork
