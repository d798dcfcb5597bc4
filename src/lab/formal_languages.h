// Formal languages that one or two heads of saturated attention recognise, by construction.
#pragma once

#include <ATen/core/Tensor.h>

#include "methods/mixer/saturated_weights.h"

namespace formwork {

/// All words of n bits, [2^n, n] float64 of 0 and 1.
Tensor all_words(int64_t n);
/// The mean of v [B,N] over all tokens (causal: over those up to each) that a head of equal scores
/// forms, [B,N].
Tensor mean_by_equal_scores(const Tensor& v, bool causal, Chosen which = Chosen::saturated);

/// Whether at least k of the bits [B,n] are 1: one head over a first token (0, 1) and tokens (b,
/// 0), [B] of 0 and 1.
Tensor threshold_gate(const Tensor& bits, int64_t k);

/// The largest amount by which the L1 distance of softmax(c s) from saturated weights exceeds
/// 2 (n - |T|) / |T| exp(-c gap), over random integer scores and c = 1, 4, 16, 64: not above 0
/// but for rounding. After Merrill et al. 2021, arXiv 2106.16213.
double limit_law_excess();
/// How many of the 2,046 words of 1 to 10 letters are misjudged by one head with equal scores that
/// accepts a mean of ±1 above half a vote.
double majority_errors(Chosen which);
/// Misjudged words of 1 to 8 letters, over the gates with k = 1 to n + 1.
double threshold_errors();
/// The same for an odd number of ones: a second layer adds the gates' outputs with alternating
/// signs.
double parity_errors();
/// Misjudged words of 1 to 12 brackets: a causal head finds the depths, one more whether any is
/// negative.
double bracket_errors();

}  // namespace formwork
