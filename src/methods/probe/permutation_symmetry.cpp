#include <c10/core/GradMode.h>

#include <algorithm>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct PermutationSymmetryOptions {
  int64_t permutations = 8;
  double tolerance = 1e-5;
  void describe(OptionSet& o) {
    o.add("permutations", permutations, "random orders that are tried", at_least(1));
    o.add("tolerance", tolerance, "a change of the output below this is none", above(0));
  }
};

/// Whether the order of the earlier tokens matters for the prediction at the last: the greatest of
/// max |y(x) - y(Px)| / (1 + max |y(x)|) over random permutations P that keep the last token in
/// place. 0 without positions and without causal attention, and with one causal layer. Zuo &
/// Guerzhoy 2024, arXiv 2402.05969.
class PermutationSymmetry final : public Probe {
 public:
  PermutationSymmetry(const PermutationSymmetryOptions& options, const ProbeSite& site)
      : options_(options), random_(site.random.child("permutation_symmetry")) {}
  static Traits traits(const PermutationSymmetryOptions&) { return {.experiments = true}; }

  void experiment(Subject& subject) override {
    const c10::NoGradGuard no_grad;
    const Tensor y = prediction(subject, {});
    if (length_ - first_ < 3) return;
    for (int64_t r = 0; r < options_.permutations; ++r) {
      const std::vector<int64_t> order =
          permutation(length_ - first_ - 1, random_.child(static_cast<uint64_t>(r)));
      Tensor index = at::arange(length_);
      for (size_t i = 0; i < order.size(); ++i)
        index[first_ + static_cast<int64_t>(i)] = first_ + order[i];
      gap_ = std::max(gap_, relative_gap(y, prediction(subject, index)));
    }
    measured_ = true;
  }

  Findings findings() override {
    Findings found;
    if (!measured_) {
      found.say("fewer than two tokens come before the last, so none can change places");
      return found;
    }
    const bool symmetric = gap_ <= options_.tolerance;
    found.say((symmetric ? "symmetric: the order of the earlier tokens does not matter"
                         : "not symmetric: the order of the earlier tokens matters") +
              (" for the last output (gap " + figure_text(gap_)) + ", " +
              std::to_string(options_.permutations) + " permutations of " +
              std::to_string(length_ - first_ - 1) + " tokens)");
    Figures gap = figures_of("gap", "Change of the output when earlier tokens change places",
                             "output", {"gap"}, Plot::none);
    gap.rows.emplace_back("last", std::vector<double>{gap_});
    found.figures.push_back(std::move(gap));
    found.series.push_back({"", {gap_}});
    return found;
  }

 private:
  /// The last token's output, or all of one that is no row a token; `order` [N] undefined = as it
  /// is.
  Tensor prediction(Subject& subject, const Tensor& order) {
    Subject::Run run;
    run.edit = [&](Tensor vectors) {
      first_ = subject.per_token() ? 0 : subject.added();
      length_ = vectors.size(1);
      if (subject.valid().defined()) length_ = subject.valid().sum(1).min().item<int64_t>();
      if (order.defined())
        vectors.narrow(1, 0, length_).copy_(vectors.index_select(1, order.to(vectors.device())));
    };
    const Tensor y = subject.run(run);
    return subject.per_token() && length_ > 0 ? y.select(1, length_ - 1) : y;
  }

  PermutationSymmetryOptions options_;
  RandomStream random_;
  int64_t first_ = 0, length_ = 0;
  double gap_ = 0.0;
  bool measured_ = false;
};

const Register<Probe, PermutationSymmetry, PermutationSymmetryOptions> permutation_symmetry{
    "permutation_symmetry", "whether the order of the earlier tokens matters", cite("2402.05969"),
    specified_by("breaking_symmetry")};

}  // namespace
}  // namespace formwork
