#include <cmath>

#include "methods/optimizer/kronecker.h"

namespace formwork {
namespace {

struct SoapOptions : OptimizerOptions {
  double beta1 = 0.95;
  double beta2 = 0.95;
  double shampoo_beta = 0.95;
  double eps = 1e-8;
  int64_t precondition_frequency = 10;
  int64_t max_precond_dim = 10000;
  bool precondition_1d = false;

  SoapOptions() {
    lr = 3e-3;
    weight_decay = 0.01;
  }
  void describe(OptionSet& set) {
    describe_common(set);
    set.add("beta1", beta1, "decay of the mean of the gradients", fraction());
    set.add("beta2", beta2, "decay of the mean of their squares", fraction());
    set.add("shampoo_beta", shampoo_beta, "decay of the matrices that give the basis", fraction());
    set.add("eps", eps, "added to the root of the squares", at_least(0));
    set.add("precondition_frequency", precondition_frequency, "steps from basis to basis",
            at_least(1));
    set.add("max_precond_dim", max_precond_dim, "wider sides keep the basis they are written in",
            at_least(0));
    set.add("precondition_1d", precondition_1d, "give vectors a basis too");
  }
};

/// Adam in the eigenbasis of Shampoo's matrices. For a matrix: L = βL + (1-β)GGᵀ, R likewise with
/// GᵀG; G' = Q_LᵀGQ_R; m and v are Adam's moments of G'; U = Q_L(m/(sqrt v + ε))Q_Rᵀ;
/// p -= η sqrt(1-β₂ᵗ)/(1-β₁ᵗ) U, and only then the decay. The first gradient only starts the bases.
/// Every `precondition_frequency` steps one QR step follows the matrices. Tensors of more
/// dimensions have a basis a dimension. Vyas et al. 2024, arXiv 2409.11321, as released.
class Soap final : public Optimizer {
 public:
  Soap(const SoapOptions& options, const OptimizerSite& site)
      : Optimizer(options, site),
        options_(options),
        mean_(add_slot("mean")),
        square_(add_slot("square")) {
    for (int64_t side = 0; side < most_sides(parameters_); ++side) {
      const auto square = [this, side](const Tensor& value) {
        if (!has_side(value, side, options_.max_precond_dim, options_.precondition_1d))
          return Tensor();
        return at::zeros({value.size(side), value.size(side)}, value.options());
      };
      gram_.push_back(&add_slot("gram" + std::to_string(side), square));
      basis_.push_back(&add_slot("basis" + std::to_string(side), square));
    }
  }

 private:
  void update(double factor, const std::vector<Tensor>& gradients) override {
    for_each(gradients, [&](size_t i, const Tensor& gradient) {
      const int64_t t = count(i) - 1;
      if (t > 0) move(factor, t, i, gradient);
      follow(i, gradient);
      if (t == 0) start_bases(i);
      if (t > 0 && t % options_.precondition_frequency == 0) turn_bases(i);
    });
  }

  void move(double factor, int64_t t, size_t i, const Tensor& gradient) {
    const Tensor turned = into_basis(i, gradient);
    mean_[i].lerp_(turned, 1.0 - options_.beta1);
    square_[i].mul_(options_.beta2).addcmul_(turned, turned, 1.0 - options_.beta2);
    const Tensor step = out_of_basis(i, mean_[i] / square_[i].sqrt().add_(options_.eps));
    const double steps = static_cast<double>(t);
    const double correction =
        std::sqrt(1.0 - std::pow(options_.beta2, steps)) / (1.0 - std::pow(options_.beta1, steps));
    values_[i].sub_(step, rate_of(factor, parameters_[i]) * correction);
    const double lost = shrinkage(factor, parameters_[i]);
    if (lost > 0) values_[i].mul_(1.0 - lost);
  }

  void follow(size_t i, const Tensor& gradient) {
    for (size_t side = 0; side < gram_.size(); ++side) {
      const Tensor& matrix = (*gram_[side])[i];
      if (matrix.defined())
        matrix.lerp_(gram(gradient, static_cast<int64_t>(side)), 1.0 - options_.shampoo_beta);
    }
  }

  void start_bases(size_t i) {
    for (size_t side = 0; side < gram_.size(); ++side) {
      const Tensor& matrix = (*gram_[side])[i];
      if (matrix.defined()) (*basis_[side])[i].copy_(eigen(matrix).second);
    }
  }

  /// One step of power iteration towards the present eigenbases; the mean is carried over.
  void turn_bases(size_t i) {
    const Tensor mean = out_of_basis(i, mean_[i]);
    for (size_t side = 0; side < gram_.size(); ++side) {
      const Tensor& matrix = (*gram_[side])[i];
      if (!matrix.defined()) continue;
      const Tensor& basis = (*basis_[side])[i];
      const Tensor product = at::matmul(matrix, basis);
      // diag(Qᵀ L Q) without the full product
      const Tensor order =
          (basis * product).sum(0).argsort(/*stable=*/true, 0, /*descending=*/true);
      square_[i].copy_(square_[i].index_select(static_cast<int64_t>(side), order));
      basis.copy_(std::get<0>(at::linalg_qr(product.index_select(1, order))));
    }
    mean_[i].copy_(into_basis(i, mean));
  }

  Tensor into_basis(size_t i, Tensor x) const {
    for (size_t side = 0; side < basis_.size(); ++side)
      if ((*basis_[side])[i].defined())
        x = along(x, (*basis_[side])[i], static_cast<int64_t>(side));
    return x;
  }

  Tensor out_of_basis(size_t i, Tensor x) const {
    for (size_t side = 0; side < basis_.size(); ++side)
      if ((*basis_[side])[i].defined())
        x = along(x, (*basis_[side])[i].t(), static_cast<int64_t>(side));
    return x;
  }

  SoapOptions options_;
  std::vector<Tensor>& mean_;    // in the basis
  std::vector<Tensor>& square_;  // in the basis
  std::vector<std::vector<Tensor>*> gram_, basis_;
};

const Register<Optimizer, Soap, SoapOptions> soap{"soap", "Adam in the eigenbasis of Shampoo",
                                                  cite("2409.11321"),
                                                  specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork
