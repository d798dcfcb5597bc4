#include "methods/position/sinusoidal.h"

#include <cmath>

#include "methods/position/position.h"
#include "methods/position/position_cache.h"

namespace formwork {

Tensor sinusoidal_table(const Tensor& positions, int64_t width, double base,
                        const std::string& layout) {
  const int64_t count = (width + 1) / 2;
  const auto real = positions.options().dtype(at::kDouble);
  const double step = layout == "tensor2tensor" ? 1.0 / static_cast<double>(count - 1)
                                                : 2.0 / static_cast<double>(width);
  const Tensor frequencies = at::exp(at::arange(count, real) * (-step * std::log(base)));
  const Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * frequencies;
  if (layout == "interleaved")
    return at::stack({angles.sin(), angles.cos()}, -1).flatten(-2).narrow(-1, 0, width);
  return at::cat({angles.sin(), angles.cos()}, -1);
}

namespace {

struct SinusoidalOptions {
  double base = 10000.0;
  std::string layout = "interleaved";
  bool scale_embedding = false;
  void describe(OptionSet& o) {
    o.add("base", base, "the slowest wave has a length of 2 pi times this", above(1));
    o.add("layout", layout, "order of the sines and cosines",
          one_of({"interleaved", "concat", "tensor2tensor"}));
    o.add("scale_embedding", scale_embedding, "multiply the tokens by sqrt(D) first");
  }
};

/// x + e(p), e(p)[2i] = sin(p / base^(2i/D)), e(p)[2i+1] = cos of the same; no parameters.
/// Vaswani et al. 2017, arXiv 1706.03762.
class Sinusoidal final : public Position {
 public:
  Sinusoidal(const SinusoidalOptions& options, const PositionSite& site)
      : options_(options), width_(site.width) {
    check(options.layout == "interleaved" || width_ % 2 == 0, "position.layout", "found ",
          options.layout, " with an odd width ", width_, "; valid: interleaved, or an even width");
    check(options.layout != "tensor2tensor" || width_ >= 4, "position.layout",
          "found tensor2tensor with width ", width_, "; valid: a width of at least 4");
  }
  static Traits traits(const SinusoidalOptions&) { return {.adds = true}; }

  Tensor add(const Tensor& x, const Tensor& positions) override {
    const auto tables = cache_.find({positions}, x.scalar_type(), [&] {
      const Tensor table = sinusoidal_table(positions, width_, options_.base, options_.layout);
      return std::vector<Tensor>{table.to(x.scalar_type())};
    });
    if (!options_.scale_embedding) return x + tables[0];
    return at::add(tables[0], x, std::sqrt(static_cast<double>(width_)));
  }

 private:
  SinusoidalOptions options_;
  int64_t width_;
  PositionCache cache_;
};

const Register<Position, Sinusoidal, SinusoidalOptions> sinusoidal{
    "sinusoidal", "sines and cosines of the position added to the tokens", cite("1706.03762"),
    specified_by("position_baselines")};

}  // namespace
}  // namespace formwork
