#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct SaturationOptions {
  double factor = 1000.0;
  void describe(OptionSet& o) {
    o.add("factor", factor, "what every parameter is multiplied with", above(1));
  }
};

/// How near a model is to its saturated limit, by depth: the cosine between each token's vector and
/// its vector after every parameter was multiplied with `factor`, averaged over the tokens; 1 where
/// growing further changes no direction. The factor is finite, biases and functions that are not
/// homogeneous spoil the limit, and 16-bit models overflow. After Merrill's code of 2021
/// (saturate); Merrill et al. 2021, arXiv 2010.09697 and 2106.16213.
class Saturation final : public Probe {
 public:
  Saturation(const SaturationOptions& options, const ProbeSite& site)
      : factor_(options.factor), parameters_(site.parameters) {}
  static Traits traits(const SaturationOptions&) { return {.experiments = true}; }

  void experiment(Subject& subject) override {
    const c10::NoGradGuard no_grad;
    ByPlace<Tensor> plain = vectors(subject), grown;
    {
      const Grown guard(parameters_, factor_);
      grown = vectors(subject);
    }
    for (auto& [layer, h] : plain) {
      const Tensor* s = grown.find(layer);
      if (!s || s->sizes() != h.sizes()) continue;
      const Tensor lengths = h.norm(2, -1) * s->norm(2, -1) + 1e-9;
      Tensor cosine = (h * *s).sum(-1) / lengths;
      const Tensor valid = subject.valid();
      if (valid.defined() && valid.sizes() == cosine.sizes()) cosine = cosine.index({valid});
      cosines_[layer] = cosine.mean().item<double>();
    }
  }

  Findings findings() override {
    Findings found;
    Figures figures = figures_of("saturation", "Cosine to the vectors of the saturated model",
                                 "depth", {"cosine"});
    Series series{"", {}};
    bool finite = true;
    for (const auto& [layer, cosine] : cosines_) {
      figures.rows.emplace_back(layer, std::vector<double>{cosine});
      series.values.push_back(cosine);
      finite = finite && std::isfinite(cosine);
    }
    if (series.values.empty()) {
      found.say("the model shows no vectors by depth, so there is nothing to compare");
      return found;
    }
    if (!finite)
      found.say("the enlarged model overflowed; a smaller factor, or float32, would not");
    found.figures.push_back(std::move(figures));
    found.series.push_back(std::move(series));
    return found;
  }

 private:
  /// Every parameter times a factor while it lives; afterwards the same bits as before.
  class Grown {
   public:
    Grown(const std::vector<Parameter>& parameters, double factor) : parameters_(parameters) {
      for (const Parameter& parameter : parameters_) {
        before_.push_back(parameter.tensor.detach().clone());
        Tensor(parameter.tensor).mul_(factor);
      }
    }
    Grown(const Grown&) = delete;
    Grown& operator=(const Grown&) = delete;
    ~Grown() {
      for (size_t i = 0; i < before_.size(); ++i) Tensor(parameters_[i].tensor).copy_(before_[i]);
    }

   private:
    const std::vector<Parameter>& parameters_;
    std::vector<Tensor> before_;
  };

  /// The vectors [B,N,D] that leave each layer, in float64.
  static ByPlace<Tensor> vectors(Subject& subject) {
    struct Watcher final : SelectiveObserver {
      ByPlace<Tensor> hidden;
      bool wants(const std::string& point) const override {
        // Of two stacks the one that makes the output.
        return !point.starts_with("encoder.") && !place_at(point, "stream").empty();
      }
      void see(const std::string& point, const Tensor& tensor) override {
        if (wants(point)) hidden[layer_of(point)] = tensor.to(at::kDouble);
      }
    } watcher;
    subject.run({.input = {}, .edit = nullptr, .watcher = &watcher});
    return std::move(watcher.hidden);
  }

  double factor_;
  std::vector<Parameter> parameters_;
  ByPlace<double> cosines_;
};

const Register<Probe, Saturation, SaturationOptions> saturation{
    "saturation", "how near the model is to the limit of growing parameters", cite("2010.09697"),
    specified_by("saturated_attention")};

}  // namespace
}  // namespace formwork
