// Attention weights in the limit of growing scores. Merrill et al. 2021, arXiv 2106.16213.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/random.h"

namespace formwork {

using at::Tensor;

/// Which keys of a row share its weight.
enum class Chosen { saturated, hard_left, hard_right, hard_random };

/// scores [...,Nq,Nk], -infinity at closed pairs → bool, true at the keys T that weigh.
/// saturated: those within `tolerance` of the row's largest score; hard_left, hard_right: the
/// first, the last of exactly the largest; hard_random: that of saturated's with the largest
/// `priority`, which broadcasts to the scores. A row of -infinity has none.
Tensor chosen_keys(const Tensor& scores, Chosen which, double tolerance = 0.0,
                   const Tensor& priority = {});
/// 1/|T| at T and 0 elsewhere, of the type `type`.
Tensor chosen_weights(const Tensor& chosen, at::ScalarType type);
/// (sum of v_j over T) / |T|: chosen [B,H,Nq,Nk] and v [B,Hkv,Nk,V] → [B,H,Nq,V], 0 where T is
/// empty. Summed before it is divided, so that means of integers are rounded once; 16-bit values
/// are summed in float32.
Tensor mean_of_chosen(const Tensor& chosen, const Tensor& v);
/// [.,H,Nq,Nk] uniform in [0, 1), a function of the stream, the head and the two positions alone:
/// positions [N] or [B,N].
Tensor pair_priority(const RandomStream& stream, int64_t heads, const Tensor& query_positions,
                     const Tensor& key_positions);
/// How far softmax weights a [R,Nk] are from saturated ones, averaged over the rows: with
/// T = {j : a_j > share · max a} and u = 1/|T| on T, sum over T of u (log u - log a). A scalar; u
/// is a constant. After Merrill's code of 2021 (saturate).
Tensor saturation_divergence(const Tensor& weights, double share = 0.9);

}  // namespace formwork
