#include "methods/probe/measures.h"

#include <cmath>
#include <limits>

namespace formwork {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor wide(const Tensor& x) {
  return x.detach().to(at::kDouble);
}

/// Vectors of length 1; those of length 0 stay.
Tensor unit(const Tensor& x) {
  return x / x.norm(2, {-1}, true).clamp_min(1e-300);
}

}  // namespace

Tensor entropy_of(const Tensor& weights) {
  const Tensor a = wide(weights);
  return at::xlogy(a, a).sum(-1).neg();
}

Tensor entropy_bound(const Tensor& sigma, const Tensor& keys) {
  const Tensor s = wide(sigma), t = wide(keys);
  const Tensor others = (t - 1).clamp_min(1);
  const Tensor b = at::exp(-s * at::sqrt(t / others));
  const Tensor bound = at::log1p(others * b) + s * at::sqrt(t * others) * b / (1 + others * b);
  return at::where(t > 1, bound, at::zeros_like(bound));
}

Tensor open_keys(const Tensor& scores) {
  return (scores != -kInfinity).sum(-1);
}

Tensor centred_norm(const Tensor& scores) {
  const Tensor open = scores != -kInfinity;
  const Tensor a = wide(scores).masked_fill(open.logical_not(), 0.0);
  const Tensor mean = a.sum(-1, true) / open.sum(-1, true).clamp_min(1);
  return (a - mean).masked_fill(open.logical_not(), 0.0).norm(2, {-1});
}

Tensor condition_number(const Tensor& matrices) {
  return condition_of(at::linalg_svdvals(wide(matrices)));
}

Tensor condition_of(const Tensor& singular_values) {
  const Tensor s = wide(singular_values);
  const Tensor most = s.select(-1, 0), least = s.select(-1, -1);
  return at::where(least < most * 1e-12, at::full_like(most, kInfinity), most / least);
}

Tensor stable_rank(const Tensor& singular_values) {
  const Tensor squares = wide(singular_values).square();
  return squares.sum(-1) / squares.amax(-1);
}

StreamFigures stream_figures(const Tensor& h, const Tensor& valid) {
  const Tensor all = wide(h);
  const Tensor tokens = valid.defined() ? all.index({valid}) : all.flatten(0, -2);
  StreamFigures figures;
  if (tokens.size(0) == 0) return figures;
  figures.variance = tokens.var({-1}, 0).mean().item<double>();
  figures.rms = tokens.square().mean(-1).sqrt().mean().item<double>();
  figures.largest = tokens.abs().max().item<double>();
  figures.median = tokens.abs().median().item<double>();
  return figures;
}

Tensor similarity_by_distance(const Tensor& hidden) {
  const Tensor vectors = unit(wide(hidden));
  const Tensor cosine = at::matmul(vectors, vectors.transpose(-2, -1));  // [L,B,N,N]
  std::vector<Tensor> means;
  for (int64_t t = 0; t < hidden.size(2); ++t)
    means.push_back(cosine.diagonal(t, -2, -1).mean(at::IntArrayRef{1, 2}));
  return at::stack(means, 1);
}

Tensor slice_correlation(const Tensor& hidden) {
  const Tensor all = wide(hidden);
  const Tensor vectors = unit(all - all.mean(-1, true));
  const int64_t depth = all.size(0), batch = all.size(1), n = all.size(2);
  const Tensor stacked = vectors.transpose(0, 1).flatten(1, 2);  // [B,L·N,D]
  const Tensor products = at::matmul(stacked, stacked.transpose(-2, -1)).sum(0) / batch;
  return products.view({depth, n, depth, n}).transpose(1, 2);
}

Tensor slice_score(const Tensor& correlation) {
  const int64_t n = correlation.size(-1);
  std::vector<Tensor> scores;
  for (int64_t l = 0; l + 1 < correlation.size(0); ++l) {
    const Tensor pair = correlation[l][l + 1];
    const Tensor same = pair.diagonal().sum();
    const double others = static_cast<double>(n * n - n);
    scores.push_back(same / static_cast<double>(n) - (pair.sum() - same) / others);
  }
  return scores.empty() ? at::empty({0}, at::kDouble) : at::stack(scores);
}

double relative_gap(const Tensor& y, const Tensor& other) {
  const Tensor a = wide(y), b = wide(other);
  return ((a - b).abs().max() / (1 + a.abs().max())).item<double>();
}

Line fit_line(const std::vector<double>& y) {
  const double n = static_cast<double>(y.size());
  if (y.size() < 2) return {};
  double mean = 0.0;
  for (const double value : y) mean += value / n;
  double xx = 0.0, xy = 0.0, yy = 0.0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double x = static_cast<double>(i) - (n - 1) / 2;
    xx += x * x;
    xy += x * (y[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return {xy / xx, yy > 0 ? xy * xy / (xx * yy) : 1.0};
}

}  // namespace formwork
