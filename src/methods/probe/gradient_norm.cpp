#include <algorithm>
#include <cmath>

#include "methods/probe/probe.h"
#include "methods/sparse_gradient.h"

namespace formwork {
namespace {

/// The L2 norm of the gradient of the mean loss, a row a layer, a column a role; the mean over the
/// batches. Without clipping.
class GradientNorm final : public Probe {
 public:
  GradientNorm(const NoOptions&, const ProbeSite& site) : parameters_(site.parameters) {}
  static Traits traits(const NoOptions&) { return {.gradients = true}; }

  void end() override {
    ByPlace<ByPlace<double>> squares;
    for (const Parameter& p : parameters_) {
      if (!p.tensor.grad().defined()) continue;
      const Tensor gradient = touched(p.tensor.grad()).detach().to(at::kDouble);
      squares[layer_of(p.name)][role_name(p.role)] += gradient.square().sum().item<double>();
    }
    for (auto& [layer, roles] : squares) {
      double all = 0.0;
      for (auto& [role, square] : roles) {
        all += square;
        norms_[layer][role] += std::sqrt(square);
      }
      totals_[layer] += std::sqrt(all);
    }
    passes_ += 1;
  }

  Findings findings() override {
    Findings found;
    if (totals_.empty()) {
      found.say("no parameter of this model has a gradient");
      return found;
    }
    Figures figures =
        figures_of("norm", "Norm of the gradient", "layer", {"all"}, Plot::logarithmic);
    for (const Parameter& p : parameters_) {
      const std::string role = role_name(p.role);
      if (std::count(figures.columns.begin(), figures.columns.end(), role) == 0)
        figures.columns.push_back(role);
    }
    const double n = static_cast<double>(passes_);
    Series series{"", {}};
    for (auto& [layer, total] : totals_) {
      std::vector<double> row{total / n};
      for (size_t i = 1; i < figures.columns.size(); ++i) {
        const double* norm = norms_[layer].find(figures.columns[i]);
        row.push_back(norm ? *norm / n : std::nan(""));
      }
      figures.rows.emplace_back(layer, std::move(row));
      series.values.push_back(total / n);
    }
    found.figures.push_back(std::move(figures));
    found.series.push_back(std::move(series));
    return found;
  }

 private:
  std::vector<Parameter> parameters_;
  ByPlace<ByPlace<double>> norms_;
  ByPlace<double> totals_;
  int64_t passes_ = 0;
};

const Register<Probe, GradientNorm> gradient_norm{"gradient_norm",
                                                  "size of the gradient by layer and role",
                                                  cite("2502.02732"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
