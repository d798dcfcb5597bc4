#include "methods/mixer/random_features.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace formwork {

Tensor positive_features(const Tensor& x, const Tensor& weight) {
  const Tensor logits = at::linear(x, weight) - 0.5 * x.square().sum(-1, true);
  return logits.exp() / std::sqrt(static_cast<double>(weight.size(0)));
}

Tensor trigonometric_features(const Tensor& x, const Tensor& weight) {
  const Tensor angles = at::linear(x, weight);
  const Tensor length = (0.5 * x.square().sum(-1, true)).exp();
  return at::cat({angles.sin(), angles.cos()}, -1) *
         (length / std::sqrt(static_cast<double>(weight.size(0))));
}

Tensor random_directions(int64_t count, int64_t width, bool orthogonal,
                         const RandomStream& random) {
  const Tensor normal_rows = normal_tensor({count, width}, 1.0, random.child("normal"));
  if (!orthogonal) return normal_rows;
  std::vector<Tensor> blocks;
  for (int64_t from = 0; from < count; from += width) {
    const Tensor normal =
        normal_tensor({width, width}, 1.0, random.child(static_cast<uint64_t>(from)));
    const auto [q, r] = at::linalg_qr(normal.to(at::kDouble));
    // With these signs the rotation is uniform.
    const Tensor rows = (q * r.diagonal().sign()).t();
    blocks.push_back(rows.narrow(0, 0, std::min(width, count - from)));
  }
  return (at::cat(blocks, 0) * normal_rows.to(at::kDouble).norm(2, {1}, true)).to(at::kFloat);
}

RandomFeatures::RandomFeatures(const RandomFeatureOptions& options, int64_t width,
                               const RandomStream& random)
    : options_(options), width_(width), random_(random) {
  if (options_.feature_map != "prf" && options_.feature_map != "trf") return;
  weight_ = add_buffer("weight", random_directions(options_.count, width_, options_.orthogonal,
                                                   random_.child(uint64_t{0})));
}

int64_t RandomFeatures::count() const {
  if (!weight_.defined()) return width_;
  return options_.feature_map == "trf" ? 2 * options_.count : options_.count;
}

Tensor RandomFeatures::keys(const Tensor& x) const {
  if (options_.feature_map == "prf") return positive_features(x, weight_.to(x.scalar_type()));
  if (options_.feature_map == "trf") return trigonometric_features(x, weight_.to(x.scalar_type()));
  if (options_.feature_map == "relu") return x.relu();
  // exp(x) below 0 as it is: elu(x) + 1 would round small weights to 0.
  return x.clamp_max(0).exp() + x.relu();
}

Tensor RandomFeatures::queries(const Tensor& x) const {
  if (!weight_.defined()) return keys(x);
  const Tensor logits = at::linear(x, weight_.to(x.scalar_type()));
  if (options_.feature_map == "trf") return at::cat({logits.sin(), logits.cos()}, -1);
  return (logits - logits.detach().amax(-1, true)).exp();
}

void RandomFeatures::before_step(const Elapsed& elapsed) {
  if (options_.redraw_interval == 0 || !weight_.defined()) return;
  const int64_t draw = elapsed.step / options_.redraw_interval;
  if (draw == drawn_) return;
  drawn_ = draw;
  const c10::NoGradGuard no_grad;
  weight_.copy_(random_directions(options_.count, width_, options_.orthogonal,
                                  random_.child(static_cast<uint64_t>(draw))));
}

}  // namespace formwork
