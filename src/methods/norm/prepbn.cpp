#include "methods/norm/mixed_batch.h"
#include "methods/norm/norm.h"
#include "methods/norm/progression.h"

namespace formwork {
namespace {

struct PrepbnOptions {
  std::string base_norm = "layer";
  int64_t warm = 0;
  std::optional<int64_t> total_step;
  double warm_fraction = 0.0;
  double total_fraction = 0.8;
  double r0 = 1.0;
  int64_t counter_every = 1;
  double eta_init = 1.0;
  double gamma_init = 1.0;
  double ln_eps = 1e-5;
  double bn_eps = 1e-5;
  double momentum = 0.1;
  void describe(OptionSet& o) {
    o.add("base_norm", base_norm, "the norm that is replaced: layer or rms",
          one_of({"layer", "rms"}));
    o.add("total_step", total_step,
          "steps over which it is replaced (the authors take 60000 to 300000); absent = "
          "total_fraction",
          at_least(1));
    o.add("warm", warm, "with total_step: steps before, with the first norm alone", at_least(0));
    o.add("total_fraction", total_fraction,
          "part of the training's budget over which it is replaced", above(0));
    o.add("warm_fraction", warm_fraction,
          "part of the budget before, with the first norm alone, where total_step is absent",
          at_least(0));
    o.add("r0", r0, "the first norm's share when the replacing begins", between(0, 1));
    o.add("counter_every", counter_every,
          "micro-batches of a step; above 1 those after the first one take the next step's share, "
          "as the authors' language model does",
          at_least(1));
    o.add("eta_init", eta_init, "start of the factor on the input that is added (0 for LLaMA)");
    o.add("gamma_init", gamma_init, "start of the batch norm's scale (0 for LLaMA)");
    o.add("ln_eps", ln_eps, "added to the variance of a token (1e-6 in DeiT)", above(0));
    o.add("bn_eps", bn_eps, "added to the variance of a channel", above(0));
    o.add("momentum", momentum, "part of the present batch in the running statistics",
          between(0, 1));
    o.require(
        "warm", [this] { return warm == 0 || total_step; },
        "counts steps and needs total_step; valid without it: 0, see warm_fraction");
    o.require(
        "total_fraction", [this] { return warm_fraction + total_fraction <= 1.0 + 1e-9; },
        "valid: at most 1 - warm_fraction, so that training ends without the first norm");
  }
};

/// Progressive re-parameterized batch norm: training goes from a norm of tokens to one of the
/// batch,
///   y = lambda · LN(x) + (1 - lambda) · (BN(x) + eta · x),
/// lambda falling linearly from r0 to 0; inference, even in mid-training, is BN(x) + eta · x with
/// running statistics, an affine map that folds into its neighbours. eta is one number. Padded
/// tokens do not count and become eta · x in the second part. In a causal model a training pass
/// sees the statistics of later tokens; inference does not. lambda is a function of the step (or
/// of the budget used), so a resumed run needs no counter. The authors' class default, 300000
/// steps, would leave a shorter training unfinished: here the default is 0.8 of the budget.
/// Guo et al. 2024, arXiv 2405.11582.
class Prepbn final : public Norm {
 public:
  Prepbn(const PrepbnOptions& options, const NormSite& site) : options_(options) {
    const int64_t width = site.width;
    progression_ = {options.warm, options.total_step.value_or(0), options.warm_fraction,
                    options.total_fraction, options.r0};
    const Tensor ones = at::ones({width});
    first_.weight = add_parameter("ln.weight", ones, Role::norm);
    if (options.base_norm == "layer")
      first_.bias = add_parameter("ln.bias", at::zeros({width}), Role::bias);
    first_.eps = options.ln_eps;
    batch_.weight = add_parameter("repbn.bn.weight", ones * options.gamma_init, Role::norm);
    batch_.bias = add_parameter("repbn.bn.bias", at::zeros({width}), Role::bias);
    batch_.eta = add_parameter("repbn.eta", at::full({1}, options.eta_init), Role::norm);
    batch_.running_mean = add_buffer("repbn.bn.running_mean", at::zeros({width}));
    batch_.running_var = add_buffer("repbn.bn.running_var", at::ones({width}));
    batch_.eps = options.bn_eps;
    batch_.momentum = options.momentum;
  }
  static Traits traits(const PrepbnOptions&) { return {.per_token = false}; }

  void before_step(const Elapsed& elapsed) override {
    elapsed_ = elapsed;
    later_ = 0;
  }
  std::optional<int64_t> passes() const override { return later_; }
  void set_passes(int64_t count) override { later_ = count; }

  Tensor forward(const Tensor& x, const Tensor& valid) override {
    if (!training()) return frozen(x, valid);
    const bool warming = progression_.warming(elapsed_, later_);
    const double share = progression_.share(elapsed_, later_);
    if (options_.counter_every > 1) later_ = 1;
    if (warming) return first_(x);
    if (share >= 1.0) {
      take_statistics(x, valid, batch_, "norm.prepbn");
      return first_(x);
    }
    if (share <= 0.0) return batch_scale(x, valid, batch_, "norm.prepbn");
    if (!valid.defined()) return mixed_with_batch(x, first_, share, batch_, "norm.prepbn");
    const Tensor second = batch_scale(x, valid, batch_, "norm.prepbn");
    return at::lerp(second, first_(x).to(second.scalar_type()), share);
  }
  std::optional<Affine> folded() const override {
    return Affine{frozen_scale(batch_), frozen_shift(batch_)};
  }

 private:
  Tensor frozen(const Tensor& x, const Tensor& valid) const {
    const Tensor y = at::addcmul(frozen_shift(batch_), x, frozen_scale(batch_)).to(x.scalar_type());
    if (!valid.defined()) return y;
    return at::where(valid.unsqueeze(-1), y, (x * batch_.eta).to(x.scalar_type()));
  }

  PrepbnOptions options_;
  Progression progression_;
  Elapsed elapsed_;
  int64_t later_ = 0;  // 1 after the first pass of a step, where those count as the next step's
  TokenNorm first_;
  BatchScale batch_;
};

const Register<Norm, Prepbn, PrepbnOptions> prepbn{
    "prepbn", "a norm of tokens that training replaces by one of the batch", cite("2405.11582"),
    specified_by("slab")};

}  // namespace
}  // namespace formwork
