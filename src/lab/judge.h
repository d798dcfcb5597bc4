// Verdicts on what a claim expects, computed from figures; no verdict is ever written by hand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lab/comparison_folder.h"

namespace formwork {

enum class Verdict { holds, does_not_hold, could_not_be_told };
/// "holds", "does not hold at this scale", "could not be told".
const char* verdict_text(Verdict verdict);

struct Judgement {
  Verdict verdict = Verdict::could_not_be_told;
  std::string numbers;  // what it was computed from, for people
};

/// What one seed of a variant came to.
struct SeedOutcome {
  RunState state = RunState::missing;
  std::optional<double> value;
};

/// Whether the variant's figure lies on the wanted side of the baseline's in at least `least`
/// seeds, by more than `by`. A run that diverged loses against one that did not; a run that failed
/// otherwise, or is missing, tells nothing.
Judgement judge_order(const std::vector<SeedOutcome>& variant,
                      const std::vector<SeedOutcome>& baseline, bool lower, int64_t least,
                      double by = 0.0);

/// Whether the means differ by at most `tolerance`: two one-sided paired t-tests at 0.05
/// (Schuirmann 1987). Holds where the 90 % interval of the difference lies inside, does not where
/// it lies outside, else it could not be told. `relative`: the tolerance is a part of the
/// baseline's mean.
Judgement judge_equal(const std::vector<SeedOutcome>& variant,
                      const std::vector<SeedOutcome>& baseline, double tolerance, bool relative);

/// Whether at least `least` seeds of the variant diverged (or, `diverges` false, did not).
Judgement judge_divergence(const std::vector<SeedOutcome>& variant, bool diverges, int64_t least);

/// Whether a growth exponent is at most (or at least) `limit`, by a 95 % t-interval of its repeated
/// measurements.
Judgement judge_exponent(const std::vector<double>& exponents, double limit, bool at_most);

/// Whether every size's ratios of two times, taken turn by turn, are below 1, by a 95 % t-interval
/// of the mean of their logarithms.
Judgement judge_faster(const std::vector<int64_t>& sizes,
                       const std::vector<std::vector<double>>& ratios);

/// Whether a figure that has no chance in it is at most (or at least) `bound`; NaN tells nothing.
Judgement judge_bound(double figure, double bound, bool at_most);

/// Of all that a claim expects together: holds where everything does.
Verdict verdict_of(const std::vector<Judgement>& judgements);

}  // namespace formwork
