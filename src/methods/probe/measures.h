// The measures behind the probes, as functions of tensors; all compute in float64.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace formwork {

using at::Tensor;

/// -sum A log A over the last dimension in nats, 0 log 0 = 0.
Tensor entropy_of(const Tensor& weights);

/// The least entropy of a softmax over `keys` logits whose distance from their mean is at most
/// `sigma`: log(1 + (T-1) b) + sigma sqrt(T(T-1)) b / (1 + (T-1) b), b = exp(-sigma sqrt(T/(T-1)));
/// 0 for one key. Broadcasts. Zhai et al. 2023, arXiv 2303.06296.
Tensor entropy_bound(const Tensor& sigma, const Tensor& keys);

/// Scores [...,M] with -infinity at closed pairs → the number of open ones, and ||a - mean a||_2
/// over them.
Tensor open_keys(const Tensor& scores);
Tensor centred_norm(const Tensor& scores);

/// Largest by smallest singular value of matrices [...,R,C], infinite where the smallest is below
/// 1e-12 times the largest.
Tensor condition_number(const Tensor& matrices);
/// The same of falling singular values [...,r].
Tensor condition_of(const Tensor& singular_values);

/// ||W||_F² / ||W||_2² of singular values [...,r]: between 1 and r.
Tensor stable_rank(const Tensor& singular_values);

/// What specification peri_ln reads off a residual stream h [B,N,D]; `valid` [B,N] or undefined
/// tells which tokens count.
struct StreamFigures {
  double variance = 0.0;  // mean over tokens of the biased variance over channels
  double rms = 0.0;       // mean over tokens
  double largest = 0.0;   // max |h|
  double median = 0.0;    // of |h|
};
StreamFigures stream_figures(const Tensor& h, const Tensor& valid);

/// hidden [L,B,N,D] → [L,N]: mean cosine similarity of the vectors of tokens t apart, over batch
/// and pairs. Zuo & Guerzhoy 2024, arXiv 2402.05969 and 2501.00073.
Tensor similarity_by_distance(const Tensor& hidden);

/// hidden [L,B,N,D] → [L,L,N,N]: mean over the batch of the Pearson correlation over the channels
/// between depth l at token i and depth l' at token j. Zuo & Guerzhoy 2024, arXiv 2402.05969.
Tensor slice_correlation(const Tensor& hidden);

/// [L,L,N,N] → [L-1]: mean of the diagonal of [l,l+1] less the mean of the rest.
Tensor slice_score(const Tensor& correlation);

/// max |y - other| / (1 + max |y|).
double relative_gap(const Tensor& y, const Tensor& other);

/// The straight line through (0, y0), (1, y1), ...: slope and R².
struct Line {
  double slope = 0.0, r2 = 0.0;
};
Line fit_line(const std::vector<double>& y);

}  // namespace formwork
