// Feature maps whose products stand for exp(q·k).
#pragma once

#include <string>

#include "methods/module.h"

namespace formwork {

/// exp(W x - |x|²/2) / sqrt(m): [..., K] and W [m,K] with standard normal rows → [..., m]. The mean
/// of products over W is exp(q·k), their variance exp(2 q·k)(exp(|q+k|²) - 1)/m.
Tensor positive_features(const Tensor& x, const Tensor& weight);
/// exp(|x|²/2) [sin W x, cos W x] / sqrt(m): [..., K] → [..., 2m]; the same mean.
Tensor trigonometric_features(const Tensor& x, const Tensor& weight);
/// Standard normal rows [count,width]; `orthogonal`: those of each block of `width` are orthogonal
/// to each other, with the lengths of independent ones.
Tensor random_directions(int64_t count, int64_t width, bool orthogonal, const RandomStream& random);

struct RandomFeatureOptions {
  std::string feature_map = "prf";  // prf, trf, elu, relu
  int64_t count = 0;                // m, of prf and trf
  bool orthogonal = true;
  int64_t redraw_interval = 0;  // steps; 0 = never
};

/// The map of the options with its random directions, which are saved but not trained.
class RandomFeatures final : public Module {
 public:
  RandomFeatures(const RandomFeatureOptions& options, int64_t width, const RandomStream& random);

  /// [..., K] → [..., count()].
  Tensor keys(const Tensor& x) const;
  /// The same up to a positive factor for each query, which weights that sum to 1 do not see and
  /// which keeps them from becoming infinite or 0.
  Tensor queries(const Tensor& x) const;
  int64_t count() const;
  /// Whether no feature is negative.
  bool positive() const { return options_.feature_map != "trf"; }
  void before_step(const Elapsed& elapsed) override;
  bool steady() const override { return false; }

 private:
  RandomFeatureOptions options_;
  int64_t width_;
  RandomStream random_;
  int64_t drawn_ = 0;
  Tensor weight_;  // [m,K]
};

}  // namespace formwork
