#include <algorithm>
#include <cmath>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct ActivationsOptions {
  double massive = 100.0;
  double massive_ratio = 1000.0;
  int64_t listed = 8;
  void describe(OptionSet& o) {
    o.add("massive", massive, "an activation above this size may be massive", above(0));
    o.add("massive_ratio", massive_ratio,
          "it is where it also exceeds so many times the median of its sequence", above(0));
    o.add("listed", listed, "massive activations that are listed", at_least(0));
  }
};

/// The residual stream by depth, after the embedding and after every sublayer: variance over the
/// channels, root mean square, largest size, direction compared with the start, what the branch
/// adds, how far the largest is from the limit of 16-bit floats; and activations that are massive
/// (Sun et al. 2024, arXiv 2402.17762). Padded tokens left out. Kim et al. 2025, arXiv 2502.02732.
class Activations final : public Probe {
 public:
  Activations(const ActivationsOptions& options, const ProbeSite&) : options_(options) {}

  void begin() override {
    valid_.clear();
    start_.clear();
  }

  bool wants(const std::string& point) const override {
    return !place_at(point, "stream").empty() || !place_at(point, "branch").empty() ||
           !place_at(point, "valid").empty() || point.ends_with("stem.output");
  }

  void see(const std::string& point, const Tensor& tensor) override {
    const std::string what = point.substr(point.rfind('.') + 1);
    const std::string place = place_at(point, what);
    if (what == "valid") {
      valid_[place] = tensor;
    } else if (what == "branch") {
      branch_ = tensor;
    } else {
      const Tensor* valid = valid_.find(place);
      add(place, tensor.to(at::kDouble), valid ? *valid : Tensor(), what == "output");
      branch_ = Tensor();
    }
  }

  Findings findings() override;

 private:
  struct Sums {
    double variance = 0, rms = 0, largest = 0, median = 0, cosine = 0, branch = 0;
    int64_t passes = 0, massive = 0;
    bool has_branch = false, has_cosine = false;
  };
  struct Massive {
    std::string place;
    double value = 0;
    int64_t token = 0, channel = 0;
  };

  void add(const std::string& place, const Tensor& x, const Tensor& valid, bool start);
  void find_massive(const std::string& place, Sums& sums, const Tensor& x, const Tensor& valid);

  ActivationsOptions options_;
  ByPlace<Tensor> valid_, start_;  // start_: the vectors of each stack after its stem
  Tensor branch_;
  ByPlace<Sums> sums_;
  std::vector<Massive> massive_;
};

Tensor mean_over(const Tensor& per_token, const Tensor& valid) {
  return valid.defined() ? per_token.index({valid}).mean() : per_token.mean();
}

void Activations::add(const std::string& place, const Tensor& x, const Tensor& valid, bool start) {
  Sums& sums = sums_[place];
  const StreamFigures figures = stream_figures(x, valid);
  sums.variance += figures.variance;
  sums.rms += figures.rms;
  sums.largest = std::max(sums.largest, figures.largest);
  sums.median += figures.median;
  sums.passes += 1;
  const std::string stack = place.substr(0, place.find("layers."));
  if (start) {
    start_[place_at(place, "stem").empty() ? "" : place_at(place, "stem") + "."] = x;
  } else if (const Tensor* first = start_.find(stack); first && first->sizes() == x.sizes()) {
    sums.cosine += mean_over(at::cosine_similarity(*first, x, -1), valid).item<double>();
    sums.has_cosine = true;
  }
  if (branch_.defined()) {
    const Tensor per_token = branch_.to(at::kDouble).square().mean(-1).sqrt();
    const bool same = valid.defined() && valid.sizes() == per_token.sizes();
    sums.branch += mean_over(per_token, same ? valid : Tensor()).item<double>();
    sums.has_branch = true;
  }
  find_massive(place, sums, x, valid);
}

void Activations::find_massive(const std::string& place, Sums& sums, const Tensor& x,
                               const Tensor& valid) {
  for (int64_t b = 0; b < x.size(0); ++b) {
    Tensor size = x[b].abs();
    if (valid.defined()) size = size * valid[b].unsqueeze(-1);
    const Tensor counted = valid.defined() ? x[b].index({valid[b]}).abs() : size;
    if (counted.numel() == 0) continue;
    const double limit =
        std::max(options_.massive, options_.massive_ratio * counted.median().item<double>());
    const Tensor large = size.masked_fill(size <= limit, 0.0).flatten();
    const int64_t count = large.count_nonzero().item<int64_t>();
    sums.massive += count;
    const auto [values, where] = large.topk(std::min(count, options_.listed));
    for (int64_t i = 0; i < values.size(0); ++i) {
      const int64_t at = where[i].item<int64_t>(), channels = x.size(2);
      massive_.push_back({place, x[b].flatten()[at].item<double>(), at / channels, at % channels});
    }
  }
  std::stable_sort(massive_.begin(), massive_.end(), [](const Massive& a, const Massive& b) {
    return std::fabs(a.value) > std::fabs(b.value);
  });
  if (static_cast<int64_t>(massive_.size()) > options_.listed)
    massive_.resize(static_cast<size_t>(options_.listed));
}

Findings Activations::findings() {
  constexpr double kHalfLimit = 65504.0;
  Findings found;
  Figures stream = figures_of("stream", "The residual stream by depth", "after",
                              {"variance", "rms", "largest", "largest/median", "fp16 headroom",
                               "cosine with start", "branch/stream after", "massive"},
                              Plot::logarithmic);
  Series variance{"", {}}, largest{"largest", {}}, count{"massive", {}};
  std::vector<double> logarithms;
  int64_t massive = 0;
  const double none = std::nan("");
  for (auto& [place, s] : sums_) {
    const double n = static_cast<double>(s.passes);
    stream.rows.emplace_back(
        place, std::vector<double>{s.variance / n, s.rms / n, s.largest, s.largest / (s.median / n),
                                   kHalfLimit / s.largest, s.has_cosine ? s.cosine / n : none,
                                   s.has_branch ? s.branch / s.rms : none,
                                   static_cast<double>(s.massive)});
    variance.values.push_back(s.variance / n);
    largest.values.push_back(s.largest);
    count.values.push_back(static_cast<double>(s.massive));
    logarithms.push_back(std::log(s.variance / n));
    massive += s.massive;
  }
  if (variance.values.size() > 2) {
    const Line linear = fit_line(variance.values), exponential = fit_line(logarithms);
    found.say("variance over depth: a line explains " + figure_text(100 * linear.r2) + " % (" +
              figure_text(linear.slope) + " a sublayer), an exponential " +
              figure_text(100 * exponential.r2) + " % (times " +
              figure_text(std::exp(exponential.slope)) + " a sublayer)");
  }
  found.say(massive == 0 ? std::string("no massive activation")
                         : join_text(massive, " massive activations"));
  for (const Massive& one : massive_)
    found.say(join_text("massive after ", one.place, ": token ", one.token, ", channel ",
                        one.channel, ", ", figure_text(one.value)));
  found.figures.push_back(std::move(stream));
  found.series = {std::move(variance), std::move(largest), std::move(count)};
  return found;
}

const Register<Probe, Activations, ActivationsOptions> activations{
    "activations", "variance and size of the residual stream by depth, massive activations",
    cite("2502.02732"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
