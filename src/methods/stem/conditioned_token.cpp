#include <cmath>

#include "methods/conditioning/polar.h"
#include "methods/stem/stem.h"

namespace formwork {
namespace {

struct ConditionedTokenOptions {
  double deviation = 0.02;
  bool scale_vectors = false;
  PolarOptions polar;
  void describe(OptionSet& o) {
    o.add("deviation", deviation, "standard deviation of the table at the start", above(0));
    o.add("scale_vectors", scale_vectors, "multiply the vectors by sqrt(D)");
    polar.describe(o);
  }
};

/// One vector a token id from the conditioned table E' = E + scale · s1 U Vᵀ, E = U diag(s) Vᵀ
/// [V,D]: the scope `table` of conditioned_embedded_tokens, which a causal model may use, as E'
/// depends on the weights alone. C is computed again only when the weights have changed, once a
/// step; `through` differentiates it. A tied head multiplies with E. Its kappa is the table's: that
/// of one sample's tokens can be any. A project design after Saratchandran & Lucey 2025, arXiv
/// 2505.12789.
class ConditionedToken final : public Stem {
 public:
  ConditionedToken(const ConditionedTokenOptions& options, const StemSite& site)
      : options_(options),
        factor_(options.scale_vectors ? std::sqrt(static_cast<double>(site.width)) : 1.0),
        weight_(add_parameter("weight",
                              normal_tensor({site.input.vocabulary, site.width}, options.deviation,
                                            site.random.child("weight")),
                              Role::embedding)) {}
  static Traits traits(const ConditionedTokenOptions&) {
    return {.takes = InputForm::Kind::tokens};
  }

  Tensor forward(const Tensor& input, Stream&) override {
    const Tensor matrix = weight_.unsqueeze(0);
    const Contents now(weight_);
    if (!polar_.correction.defined() || now != polar_of_) {
      polar_ = polar_of(matrix, options_.polar, "model.stem.kind", training());
      polar_of_ = now;
    }
    const Tensor correction = correction_of(matrix, polar_, options_.polar).squeeze(0);
    const Tensor x = at::embedding(weight_, input) + at::embedding(correction, input);
    return factor_ == 1.0 ? x : x * factor_;
  }
  Tensor table() const override { return weight_; }

 private:
  ConditionedTokenOptions options_;
  double factor_;
  Tensor weight_;  // E [V,D]
  Polar polar_;
  Contents polar_of_;
};

const Register<Stem, ConditionedToken, ConditionedTokenOptions> conditioned_token{
    "conditioned_token",
    "one vector a token id, from a table whose singular values are raised by the largest",
    cite("2505.12789"), specified_by("conditioned_embedded_tokens")};

}  // namespace
}  // namespace formwork
