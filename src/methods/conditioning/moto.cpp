#include <algorithm>

#include "methods/conditioning/conditioning.h"

namespace formwork {
namespace {

constexpr double kPatchEps = 1e-6;  // added to the variance of a patch

struct MotoOptions {
  bool modulate = true;
  std::optional<int64_t> rank;
  double eps = 1e-5;
  bool residual = false;
  double tokenprop = 0.1;
  std::string target = "normalised";
  void describe(OptionSet& o) {
    o.add("modulate", modulate,
          "MoTo: standardise each channel over the tokens, then scale and shift each token by what "
          "it predicts (experimental: not the published equations)");
    o.add("rank", rank, "channels that scale and shift are predicted from; absent = width / 4",
          at_least(1));
    o.add("eps", eps, "added to the variance over the tokens", above(0));
    o.add("residual", residual,
          "add the result to the tokens, starting from the tokens as they are");
    o.add("tokenprop", tokenprop,
          "TokenProp: weight of the loss of predicting each token's patch from it, 0 = none "
          "(experimental: not the published equations)",
          at_least(0));
    o.add("target", target,
          "what TokenProp predicts: pixels brought to mean 0 and variance 1 in "
          "each patch, or as they are",
          one_of({"normalised", "raw"}));
  }
};

struct Statistics {
  Tensor mean, variance;  // [B,1,D]
};

/// Over the valid tokens of each row; one token has variance 0.
Statistics over_tokens(const Tensor& x, const Tensor& valid) {
  if (!valid.defined()) {
    const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{1}, 0, true);
    return {mean, variance};
  }
  const Tensor weight = valid.unsqueeze(-1).to(x.scalar_type());
  const Tensor count = weight.sum(1, true).clamp_min(1);
  const Tensor mean = (x * weight).sum(1, true) / count;
  return {mean, ((x - mean).square() * weight).sum(1, true) / count};
}

/// MoTo and TokenProp in a design of this project. The full text of the paper that proposes them
/// (Qian et al. 2022, arXiv 2212.11115) was not available: the equations below follow its abstract
/// and are NOT the published ones.
/// MoTo: th = (t - mean) / sqrt(variance + eps) over the token axis, per image and channel, valid
/// tokens only; z = gelu(t Wrᵀ + br) [R]; t' = th (1 + z Wgᵀ + bg) + z Wsᵀ + bs, 0 at padding,
/// before positions and class token. Wg, bg, Ws, bs start at 0; with `residual` t' = t + alpha th
/// (...) +
/// ..., alpha 0 at the start. TokenProp: lambda · mean over valid tokens and patch entries of
/// (t' Wdᵀ + bd - patch)², added to the loss while training; the decoder is not used otherwise.
class Moto final : public Conditioning {
 public:
  Moto(const MotoOptions& options, const ConditioningSite& site) : options_(options) {
    if (options.modulate) {
      const int64_t rank = options.rank.value_or(std::max<int64_t>(1, site.width / 4));
      reduce_ = add_module("reduce", site.linear("reduce", site.width, rank, Role::other, true));
      gamma_ = zero_map("gamma", site.width, rank);
      beta_ = zero_map("beta", site.width, rank);
      if (options.residual) alpha_ = add_parameter("alpha", at::zeros({1}), Role::norm);
    }
    if (options.tokenprop == 0) return;
    check(site.patch_width > 0, "model.conditioning.tokenprop", "found ", options.tokenprop,
          ", but the stem leaves no patches to predict; valid: 0, or model.stem.kind = patch");
    decoder_ = add_module("decoder",
                          site.linear("decoder", site.width, site.patch_width, Role::other, true));
  }
  static Traits traits(const MotoOptions& o) {
    return {.causal = !o.modulate,
            .class_token = false,
            .continuous = true,
            .patches = o.tokenprop > 0};
  }

  Tensor forward(const Tensor& x, Stream& stream) override {
    Tensor y = x;
    if (stream.valid.defined()) y = y.masked_fill(stream.valid.logical_not().unsqueeze(-1), 0);
    if (reduce_) y = modulated(y, stream.valid);
    const auto patches = stream.carried.find("patches");
    if (decoder_ && training()) {
      check(patches != stream.carried.end(), "model.conditioning.tokenprop",
            "the stem left no patches to predict; valid: 0, or model.stem.kind = patch");
      stream.losses.push_back(prediction_loss(y, patches->second, stream.valid));
    }
    if (patches != stream.carried.end()) stream.carried.erase(patches);
    return y;
  }

 private:
  struct Map {
    Tensor weight, bias;
    Tensor operator()(const Tensor& x) const { return at::linear(x, weight, bias); }
  };
  /// Starts at 0, whatever the linear axis and model.init say.
  Map zero_map(const std::string& name, int64_t out, int64_t in) {
    return {add_parameter(name + ".weight", at::zeros({out, in}), Role::other),
            add_parameter(name + ".bias", at::zeros({out}), Role::bias)};
  }

  Tensor modulated(const Tensor& x, const Tensor& valid) const {
    const Tensor wide = x.to(at::promote_types(x.scalar_type(), at::kFloat));
    const Statistics over = over_tokens(wide, valid);
    Tensor normed = (wide - over.mean) * at::rsqrt(over.variance + options_.eps);
    if (alpha_.defined()) normed = normed * alpha_;
    const Tensor z = at::gelu(reduce_->forward(x), "none");
    Tensor y = normed * (1 + gamma_(z)) + beta_(z);
    if (alpha_.defined()) y = y + x;
    if (valid.defined()) y = y.masked_fill(valid.logical_not().unsqueeze(-1), 0);
    return y.to(x.scalar_type());
  }

  Tensor prediction_loss(const Tensor& y, const Tensor& patches, const Tensor& valid) const {
    Tensor target = patches;
    if (options_.target == "normalised") {
      const auto [variance, mean] = at::var_mean(patches, at::IntArrayRef{-1}, 0, true);
      target = (patches - mean) * at::rsqrt(variance + kPatchEps);
    }
    const Tensor error = (decoder_->forward(y) - target).square().mean(-1);
    if (!valid.defined()) return options_.tokenprop * error.mean();
    return options_.tokenprop * error.masked_fill(valid.logical_not(), 0).sum() /
           valid.sum().clamp_min(1);
  }

  MotoOptions options_;
  std::shared_ptr<Linear> reduce_, decoder_;
  Map gamma_, beta_;
  Tensor alpha_;
};

const Register<Conditioning, Moto, MotoOptions> moto{
    "moto",
    "modulation across tokens and a loss on what tokens keep of their patches (project design)",
    cite("2212.11115, abstract only"), specified_by("moto_tokenprop")};

}  // namespace
}  // namespace formwork
