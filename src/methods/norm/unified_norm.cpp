#include <c10/core/GradMode.h>

#include <algorithm>

#include "methods/norm/norm.h"
#include "methods/norm/running_scale.h"

namespace formwork {
namespace {

struct UnifiedNormOptions {
  int64_t window_size = 4;
  std::optional<int64_t> backward_window_size;
  int64_t warmup_iters = 4000;
  std::optional<double> warmup_fraction;
  int64_t rho_start = 1000;
  bool outlier_filtration = false;
  double momentum = 0.9;
  double eps = 1e-5;
  void describe(OptionSet& o) {
    o.add("window_size", window_size, "batches whose statistics are averaged", at_least(1));
    o.add("backward_window_size", backward_window_size,
          "batches whose gradient statistics are averaged; absent = window_size", at_least(1));
    o.add("warmup_iters", warmup_iters, "passes with the batch's own statistics", at_least(0));
    o.add("warmup_fraction", warmup_fraction,
          "that warm-up as a part of the training's budget instead", between(0, 1));
    o.add("rho_start", rho_start,
          "passes before gradients are corrected by the ratio of present to running scale",
          at_least(0));
    o.add("outlier_filtration", outlier_filtration,
          "leave out batches whose statistics stand far from the window's; for images, not text");
    o.add("momentum", momentum, "part of the old running statistics that a pass keeps", above(0));
    o.add("eps", eps, "added to mean squares", above(0));
    o.require(
        "momentum", [this] { return momentum < 1; }, "valid: below 1");
  }
};

/// y = x / sqrt(v + eps) · w + b, no mean is subtracted. In training v [D] is the geometric mean of
/// the channels' mean squares over the last `window_size` batches (the present batch's alone until
/// the warm-up ends); in inference a running mean r of v, so that it folds into the next linear
/// map. With filtration, a batch is an outlier where for any channel the arithmetic mean of the
/// window exceeds the geometric one by more than V·window, V the variance of all roots in the
/// window: then the batch's own statistics serve it, and r replaces them in the window.
/// Backward, with z = x / sqrt(v + eps), g = dy · w · rho and rho the ratio of the roots of v and r
/// within [1/5, 5]: dx = (g - e z) / sqrt(v + eps), e [D] a running mean of the mean of g z over
/// the last `backward_window_size` batches (the present batch's own for outliers).
/// Padded tokens count in the backward statistic, not in the forward one, as in the authors'
/// program. In a causal model a training pass sees the statistics of later tokens; inference does
/// not. Every pass in training mode, so every micro-batch, is one iteration. Yang et al. 2022,
/// arXiv 2208.01313.
class UnifiedNorm final : public Norm {
 public:
  UnifiedNorm(const UnifiedNormOptions& options, const NormSite& site)
      : options_(options),
        weight_(add_parameter("weight", at::ones({site.width}), Role::norm)),
        bias_(add_parameter("bias", at::zeros({site.width}), Role::bias)),
        running_var_(add_buffer("running_var", at::ones({site.width}))),
        squares_(add_buffer("buffer_x2", at::zeros({options.window_size, site.width}))),
        iters_(add_buffer("iters", at::zeros({1}, at::kLong))),
        skip_counter_(add_buffer("skip_counter", at::zeros({1}, at::kLong))) {
    const int64_t window = options.backward_window_size.value_or(options.window_size);
    correlations_ = add_buffer("buffer_gz", at::zeros({window, site.width}));
    ema_gz_ = add_buffer("ema_gz", at::zeros({site.width}));
  }
  static Traits traits(const UnifiedNormOptions&) {
    return {.per_token = false, .exact_gradient = false};
  }

  void before_step(const Elapsed& elapsed) override { fraction_ = elapsed.fraction; }
  bool steady() const override { return false; }

  Tensor forward(const Tensor& x, const Tensor& valid) override {
    if (training()) return train(x, valid);
    const Affine all = *folded();
    return at::addcmul(all.shift, x, all.scale).to(x.scalar_type());
  }
  Tensor gain() const override { return weight_; }
  std::optional<Affine> folded() const override {
    return Affine{weight_ * at::rsqrt(running_var_ + options_.eps), bias_};
  }

 private:
  /// One training pass, as its backward needs it.
  struct Pass {
    int64_t iteration = 0;
    bool warming = false, outlier = false;
    Tensor variance;      // v [D]
    Tensor inverse, rho;  // 1 / sqrt(v + eps) [D]; [D] or a 1
    Tensor weight;
  };
  struct BackwardBuffers {
    Tensor correlations, ema;
    double momentum;
  };

  Tensor train(const Tensor& x, const Tensor& valid) {
    Pass pass;
    {
      const c10::NoGradGuard no_grad;
      pass = measure(mean_square(x, valid, "norm.unified_norm"));
    }
    const BackwardBuffers buffers{correlations_, ema_gz_, options_.momentum};
    return scale_by_rule(
        x, weight_, bias_, pass.inverse,
        [pass, buffers](const Tensor& mean_product) { return rule(pass, buffers, mean_product); });
  }

  /// Takes the batch's mean square into the window and the running statistics.
  Pass measure(const Tensor& now) {
    Pass pass;
    iters_.add_(1);
    const auto t = pass.iteration = iters_.item<int64_t>();
    const int64_t window = options_.window_size;
    pass.warming = options_.warmup_fraction ? fraction_ < *options_.warmup_fraction
                                            : t < options_.warmup_iters;
    pass.outlier = window == 1;
    const Tensor before = running_var_.clone();
    const bool filter = options_.outlier_filtration && !pass.warming;
    const Tensor spread = filter ? window * squares_.sqrt().var(/*unbiased=*/true) : Tensor();
    squares_[t % window].copy_(now);
    // log 0 = -inf makes the geometric mean of a channel that was 0 once 0, as it should be.
    const Tensor geometric = squares_.log().mean(0).exp();
    if (filter && (squares_.mean(0) - geometric > spread).any().item<bool>()) {
      squares_[t % window].copy_(before);
      pass.outlier = true;
      skip_counter_.add_(1);
    }
    const bool own = t <= window || pass.warming || pass.outlier;
    pass.variance = own ? now : geometric.to(now.scalar_type());
    const Tensor root = at::sqrt(pass.variance + options_.eps);
    pass.inverse = root.reciprocal();
    pass.rho = at::ones({1}, root.options());
    const bool early = t <= options_.rho_start || pass.warming ||
                       (!options_.warmup_fraction && t <= options_.warmup_iters);
    if (!early && !pass.outlier)
      pass.rho = (root / at::sqrt(before + options_.eps).to(root.scalar_type())).clamp(0.2, 5.0);
    running_var_.copy_(options_.momentum * before + (1 - options_.momentum) * pass.variance);
    pass.weight = weight_.detach().to(root.scalar_type());
    return pass;
  }

  static ScaleGradient rule(const Pass& pass, const BackwardBuffers& buffers,
                            const Tensor& mean_product) {
    const Tensor factor = pass.weight * pass.rho * pass.inverse;
    const Tensor now = factor * mean_product;  // mean of g z
    Tensor window = buffers.correlations, ema = buffers.ema;
    const int64_t size = window.size(0);
    window[pass.iteration % size].copy_(pass.outlier ? ema : now);
    const bool own = pass.iteration <= size || pass.warming || pass.outlier;
    const Tensor mean = own ? now : window.mean(0).to(now.scalar_type());
    ema.copy_(buffers.momentum * ema + (1 - buffers.momentum) * mean);
    const Tensor correction = pass.outlier ? mean : ema.to(now.scalar_type());
    return {factor, -correction * pass.inverse.square(), pass.rho * pass.inverse};
  }

  UnifiedNormOptions options_;
  double fraction_ = 0.0;
  Tensor weight_, bias_, running_var_, squares_, iters_, skip_counter_, correlations_, ema_gz_;
};

const Register<Norm, UnifiedNorm, UnifiedNormOptions> unified_norm{
    "unified_norm", "mean square 1 for every channel, smoothed over a window of batches",
    cite("2208.01313"), specified_by("unified_norm")};

}  // namespace
}  // namespace formwork
