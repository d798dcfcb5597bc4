#include <cmath>

#include "methods/optimizer/kronecker.h"

namespace formwork {
namespace {

struct ShampooOptions : OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double shampoo_beta = 0.95;
  double eps = 1e-8;
  std::string graft = "adamw";
  int64_t root_frequency = 10;
  int64_t max_precond_dim = 10000;

  void describe(OptionSet& set) {
    describe_common(set);
    set.add("beta1", beta1, "decay of the mean gradient, which is what is preconditioned; 0: none",
            fraction());
    set.add("beta2", beta2, "decay of the mean of the squares (graft adamw)", fraction());
    set.add("shampoo_beta", shampoo_beta, "decay of the matrices", fraction());
    set.add("eps", eps, "added to the matrices, and to the root of the squares", above(0));
    set.add("graft", graft, "whose step length a matrix takes: adamw or sgd",
            one_of({"adamw", "sgd"}));
    set.add("root_frequency", root_frequency, "steps from root to root", at_least(1));
    set.add("max_precond_dim", max_precond_dim, "wider sides are left as they are", at_least(0));
  }
};

/// L = βL + (1-β)GGᵀ, R = βR + (1-β)GᵀG; U = (L+εI)^-¼ M (R+εI)^-¼ with M the mean gradient (M = G
/// for β₁ = 0), brought to the norm of AdamW's or SGD's step; p ← p(1-ηλ) - ηU. A tensor of k
/// dimensions has k matrices and roots of order 2k; vectors take the grafted step itself.
/// Gupta et al. 2018, arXiv 1802.09568; grafting: Anil et al. 2020, arXiv 2002.09018.
class Shampoo final : public Optimizer {
 public:
  Shampoo(const ShampooOptions& options, const OptimizerSite& site)
      : Optimizer(options, site), options_(options), mean_(add_slot("mean")) {
    if (options_.graft == "adamw") square_ = &add_slot("square");
    for (int64_t side = 0; side < most_sides(parameters_); ++side) {
      const auto square = [this, side](const Tensor& value) {
        if (!has_side(value, side, options_.max_precond_dim, /*vectors=*/false)) return Tensor();
        return at::zeros({value.size(side), value.size(side)}, value.options());
      };
      gram_.push_back(&add_slot("gram" + std::to_string(side), square));
      root_.push_back(&add_slot("root" + std::to_string(side), square));
    }
  }

 private:
  void update(double factor, const std::vector<Tensor>& gradients) override {
    for_each(gradients, [&](size_t i, const Tensor& gradient) {
      const double lost = shrinkage(factor, parameters_[i]);
      if (lost > 0) values_[i].mul_(1.0 - lost);
      mean_[i].lerp_(gradient, 1.0 - options_.beta1);
      const Tensor mean = mean_[i] / correction(options_.beta1, i);
      const Tensor grafted = grafted_step(i, gradient, mean);
      follow(i, gradient);
      values_[i].sub_(precondition(i, mean, grafted), rate_of(factor, parameters_[i]));
    });
  }

  double correction(double beta, size_t i) const {
    return 1.0 - std::pow(beta, static_cast<double>(count(i)));
  }

  Tensor grafted_step(size_t i, const Tensor& gradient, const Tensor& mean) {
    if (square_ == nullptr) return mean;
    Tensor& square = (*square_)[i];
    square.mul_(options_.beta2).addcmul_(gradient, gradient, 1.0 - options_.beta2);
    return mean / (square / correction(options_.beta2, i)).sqrt_().add_(options_.eps);
  }

  void follow(size_t i, const Tensor& gradient) {
    const bool renew = (count(i) - 1) % options_.root_frequency == 0;
    for (size_t side = 0; side < gram_.size(); ++side) {
      const Tensor& matrix = (*gram_[side])[i];
      if (!matrix.defined()) continue;
      matrix.lerp_(gram(gradient, static_cast<int64_t>(side)), 1.0 - options_.shampoo_beta);
      if (!renew) continue;
      const auto [values, vectors] = eigen(matrix);
      const double power = -0.5 / static_cast<double>(gradient.dim());
      const Tensor scale = values.clamp_min(0.0).add_(options_.eps).pow_(power);
      (*root_[side])[i].copy_(at::matmul(vectors * scale, vectors.t()));
    }
  }

  Tensor precondition(size_t i, const Tensor& mean, const Tensor& grafted) const {
    Tensor direction = mean;
    bool any = false;
    for (size_t side = 0; side < root_.size(); ++side) {
      const Tensor& root = (*root_[side])[i];
      if (!root.defined()) continue;
      direction = along(direction, root, static_cast<int64_t>(side));
      any = true;
    }
    if (!any) return grafted;
    const Tensor norm = at::linalg_vector_norm(direction);
    // A zero direction stays zero.
    return direction * (at::linalg_vector_norm(grafted) / norm.masked_fill(norm == 0, 1.0));
  }

  ShampooOptions options_;
  std::vector<Tensor>& mean_;
  std::vector<Tensor>* square_ = nullptr;
  std::vector<std::vector<Tensor>*> gram_, root_;
};

const Register<Optimizer, Shampoo, ShampooOptions> shampoo{
    "shampoo", "gradients whitened on each side by inverse roots", cite("1802.09568"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
