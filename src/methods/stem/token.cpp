#include <cmath>

#include "methods/stem/stem.h"

namespace formwork {
namespace {

struct TokenOptions {
  double deviation = 0.02;
  bool scale = false;
  void describe(OptionSet& o) {
    o.add("deviation", deviation, "standard deviation of the table at the start", at_least(0));
    o.add("scale", scale, "multiply the vectors by sqrt(D)");
  }
};

/// One vector a token id: ids [B,N] int64 → [B,N,D] from a table [V,D].
class TokenStem final : public Stem {
 public:
  TokenStem(const TokenOptions& options, const StemSite& site)
      : factor_(options.scale ? std::sqrt(static_cast<double>(site.width)) : 1.0),
        weight_(add_parameter("weight",
                              normal_tensor({site.input.vocabulary, site.width}, options.deviation,
                                            site.random.child("weight")),
                              Role::embedding)) {}
  static Traits traits(const TokenOptions&) { return {.takes = InputForm::Kind::tokens}; }

  Tensor forward(const Tensor& input, Stream&) override {
    // A large table gets a gradient of the rows alone that tokens have touched.
    const bool sparse = weight_.numel() >= kLargeTable && input.numel() < weight_.size(0);
    const Tensor x = at::embedding(weight_, input, -1, false, sparse);
    return factor_ == 1.0 ? x : x * factor_;
  }
  Tensor table() const override { return weight_; }

 private:
  static constexpr int64_t kLargeTable = int64_t{1} << 22;

  double factor_;
  Tensor weight_;
};

const Register<Stem, TokenStem, TokenOptions> token{
    "token", "one vector a token id", cite("Vaswani et al. 2017, 1706.03762"), specified_by("")};

}  // namespace
}  // namespace formwork
