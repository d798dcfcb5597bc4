#include <cmath>

#include "methods/probe/probe.h"

namespace formwork {
namespace {

/// How much each sublayer f enlarges a vector: ||f(n)|| / ||n|| of what it reads (normed) and
/// gives,
/// ||f(n)|| / ||x|| of what it adds to the stream x, ||x'|| / ||x|| of the stream after and before,
/// and the cosine of what it adds with the stream. Means over the tokens that are not padding.
class SublayerGain final : public Probe {
 public:
  SublayerGain(const NoOptions&, const ProbeSite&) {}

  void begin() override {
    valid_.clear();
    streams_.clear();
  }

  bool wants(const std::string& point) const override {
    for (const char* what : {"stream", "branch", "input", "valid"})
      if (!place_at(point, what).empty()) return true;
    return point.ends_with("stem.output");
  }

  void see(const std::string& point, const Tensor& tensor) override {
    const std::string what = point.substr(point.rfind('.') + 1);
    const std::string place = place_at(point, what);
    if (what == "valid") {
      valid_[place] = tensor;
    } else if (what == "input") {
      input_ = tensor.to(at::kDouble);
    } else if (what == "branch") {
      branch_ = tensor.to(at::kDouble);
    } else if (what == "output") {
      streams_[stack_of(place)] = tensor.to(at::kDouble);
    } else {
      add(place, tensor.to(at::kDouble));
    }
  }

  Findings findings() override {
    Findings found;
    Figures gains = figures_of(
        "gain", "What a sublayer does to the size of vectors, means over tokens", "sublayer",
        {"branch/input", "branch/stream before", "stream after/before",
         "cosine of branch and stream"});
    Series branch{"", {}}, stream{"stream", {}};
    for (auto& [place, s] : sums_) {
      std::vector<double> row;
      for (int i = 0; i < 4; ++i) row.push_back(s.count[i] ? s.sum[i] / s.count[i] : std::nan(""));
      branch.values.push_back(row[0]);
      stream.values.push_back(row[2]);
      gains.rows.emplace_back(place, std::move(row));
    }
    if (gains.rows.empty()) found.say("this model has no sublayers");
    found.figures.push_back(std::move(gains));
    found.series = {std::move(branch), std::move(stream)};
    return found;
  }

 private:
  struct Sums {
    double sum[4] = {}, count[4] = {};
  };
  static std::string stack_of(const std::string& place) {
    return place.starts_with("encoder.") || place.starts_with("decoder.") ? place.substr(0, 8) : "";
  }

  void add(const std::string& place, const Tensor& after) {
    Sums& sums = sums_[place];
    const Tensor* valid = valid_.find(place);
    const auto mean = [&](int i, const Tensor& per_token) {
      const bool same = valid && valid->sizes() == per_token.sizes();
      const Tensor counted = same ? per_token.index({*valid}) : per_token;
      sums.sum[i] += counted.sum().item<double>();
      sums.count[i] += static_cast<double>(counted.numel());
    };
    const auto length = [](const Tensor& x) { return x.norm(2, {-1}).clamp_min(1e-300); };
    Tensor& before = streams_[stack_of(place)];
    // A mixer that shortens the sequence leaves nothing to compare token by token.
    const auto comparable = [](const Tensor& a, const Tensor& b) {
      return a.defined() && b.defined() && a.sizes() == b.sizes();
    };
    if (comparable(branch_, input_)) mean(0, length(branch_) / length(input_));
    if (comparable(branch_, before)) {
      mean(1, length(branch_) / length(before));
      mean(3, at::cosine_similarity(branch_, before, -1));
    }
    if (comparable(after, before)) mean(2, length(after) / length(before));
    before = after;
    branch_ = input_ = Tensor();
  }

  ByPlace<Tensor> valid_, streams_;
  Tensor input_, branch_;
  ByPlace<Sums> sums_;
};

const Register<Probe, SublayerGain> sublayer_gain{
    "sublayer_gain", "how much each sublayer enlarges the vectors and the stream",
    cite("2502.02732"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
