#include "lab/judge.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "lab/figures.h"
#include "lab/statistics.h"

namespace formwork {
namespace {

std::string outcome_text(const SeedOutcome& outcome) {
  return outcome.state == RunState::done && outcome.value ? figure_text(*outcome.value)
                                                          : state_name(outcome.state);
}

std::string list_text(const std::vector<SeedOutcome>& outcomes) {
  std::string text;
  for (const SeedOutcome& outcome : outcomes)
    text += (text.empty() ? "" : ", ") + outcome_text(outcome);
  return text;
}

/// How many say yes, how many cannot be asked.
struct Votes {
  int64_t yes = 0, unknown = 0;
};

Verdict verdict_of(const Votes& votes, int64_t least) {
  if (votes.yes >= least) return Verdict::holds;
  if (votes.yes + votes.unknown < least) return Verdict::does_not_hold;
  return Verdict::could_not_be_told;
}

bool has_value(const SeedOutcome& outcome) {
  return outcome.state == RunState::done && outcome.value && std::isfinite(*outcome.value);
}

/// Whether the variant wins at a seed; nothing where that cannot be said.
std::optional<bool> wins(const SeedOutcome& variant, const SeedOutcome& baseline, bool lower,
                         double by) {
  if (variant.state == RunState::diverged)
    return baseline.state == RunState::done || baseline.state == RunState::diverged
               ? std::optional<bool>(false)
               : std::nullopt;
  if (!has_value(variant)) return std::nullopt;
  if (baseline.state == RunState::diverged) return true;
  if (!has_value(baseline)) return std::nullopt;
  const double gain = lower ? *baseline.value - *variant.value : *variant.value - *baseline.value;
  return gain > by;
}

}  // namespace

const char* verdict_text(Verdict verdict) {
  static const char* const kTexts[] = {"holds", "does not hold at this scale", "could not be told"};
  return kTexts[static_cast<int>(verdict)];
}

Judgement judge_order(const std::vector<SeedOutcome>& variant,
                      const std::vector<SeedOutcome>& baseline, bool lower, int64_t least,
                      double by) {
  check(variant.size() == baseline.size(), "claim", "seeds of variant and baseline differ");
  Votes votes;
  for (size_t i = 0; i < variant.size(); ++i) {
    const std::optional<bool> won = wins(variant[i], baseline[i], lower, by);
    votes.yes += won.value_or(false) ? 1 : 0;
    votes.unknown += won ? 0 : 1;
  }
  return {verdict_of(votes, least),
          join_text(list_text(variant), " against ", list_text(baseline), ": ",
                    lower ? "lower" : "higher", by > 0 ? " by more than " + figure_text(by) : "",
                    " in ", votes.yes, " of ", variant.size(), " seeds, expected in ", least)};
}

Judgement judge_equal(const std::vector<SeedOutcome>& variant,
                      const std::vector<SeedOutcome>& baseline, double tolerance, bool relative) {
  check(variant.size() == baseline.size(), "claim", "seeds of variant and baseline differ");
  std::vector<double> differences, bases;
  bool diverged = false;
  for (size_t i = 0; i < variant.size(); ++i) {
    if (has_value(variant[i]) && has_value(baseline[i])) {
      differences.push_back(*variant[i].value - *baseline[i].value);
      bases.push_back(*baseline[i].value);
    }
    diverged = diverged || (variant[i].state == RunState::diverged && has_value(baseline[i]));
  }
  const std::string values = list_text(variant) + " against " + list_text(baseline);
  if (diverged) return {Verdict::does_not_hold, values};
  if (differences.size() < 2) return {Verdict::could_not_be_told, values};
  const double limit = relative ? tolerance * std::abs(mean_of(bases)) : tolerance;
  const auto count = static_cast<double>(differences.size());
  const double mean = mean_of(differences);
  const double half =
      student_t_quantile(0.95, count - 1) * *deviation_of(differences) / std::sqrt(count);
  Judgement judgement;
  judgement.numbers =
      join_text(values, ": difference ", figure_text(mean), " ± ", figure_text(half),
                " (90 % interval), allowed ± ", figure_text(limit));
  if (std::abs(mean) + half <= limit)
    judgement.verdict = Verdict::holds;
  else if (std::abs(mean) - half > limit)
    judgement.verdict = Verdict::does_not_hold;
  return judgement;
}

Judgement judge_divergence(const std::vector<SeedOutcome>& variant, bool diverges, int64_t least) {
  Votes votes;
  for (const SeedOutcome& outcome : variant) {
    if (outcome.state == RunState::diverged)
      votes.yes += diverges ? 1 : 0;
    else if (outcome.state == RunState::done)
      votes.yes += diverges ? 0 : 1;
    else
      votes.unknown += 1;
  }
  return {verdict_of(votes, least),
          join_text(list_text(variant), ": ", diverges ? "diverged" : "did not diverge", " in ",
                    votes.yes, " of ", variant.size(), " seeds, expected in ", least)};
}

Judgement judge_exponent(const std::vector<double>& exponents, double limit, bool at_most) {
  Judgement judgement;
  const double mean = mean_of(exponents);
  const std::optional<double> deviation = deviation_of(exponents);
  if (!deviation) {
    judgement.numbers = "measured less than twice";
    return judgement;
  }
  const auto count = static_cast<double>(exponents.size());
  const double half = student_t_quantile(0.975, count - 1) * *deviation / std::sqrt(count);
  judgement.numbers = join_text("exponent ", figure_text(mean), " ± ", figure_text(half),
                                " (95 % interval), expected ", at_most ? "at most " : "at least ",
                                figure_text(limit));
  const double low = mean - half, high = mean + half;
  if (at_most ? high <= limit : low >= limit)
    judgement.verdict = Verdict::holds;
  else if (at_most ? low > limit : high < limit)
    judgement.verdict = Verdict::does_not_hold;
  return judgement;
}

Judgement judge_faster(const std::vector<int64_t>& sizes,
                       const std::vector<std::vector<double>>& ratios) {
  std::vector<Judgement> each;
  std::string numbers;
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::vector<double> logs;
    for (const double ratio : ratios[i]) logs.push_back(std::log(ratio));
    const double mean = mean_of(logs);
    const std::optional<double> deviation = deviation_of(logs);
    each.emplace_back();
    numbers += join_text(i == 0 ? "" : ", ", sizes[i], ": ", figure_text(std::exp(mean)));
    if (!deviation) continue;
    const auto count = static_cast<double>(logs.size());
    const double half = student_t_quantile(0.975, count - 1) * *deviation / std::sqrt(count);
    numbers += join_text(" (", figure_text(std::exp(mean - half)), " to ",
                         figure_text(std::exp(mean + half)), ")");
    if (mean + half < 0) each.back().verdict = Verdict::holds;
    if (mean - half > 0) each.back().verdict = Verdict::does_not_hold;
  }
  return {verdict_of(each),
          "time as a part of the baseline's (95 % interval) " + numbers + "; expected below 1"};
}

Judgement judge_bound(double figure, double bound, bool at_most) {
  if (std::isnan(figure)) return {Verdict::could_not_be_told, figure_text(figure)};
  const bool inside = at_most ? figure <= bound : figure >= bound;
  return {inside ? Verdict::holds : Verdict::does_not_hold, figure_text(figure)};
}

Verdict verdict_of(const std::vector<Judgement>& judgements) {
  const auto any = [&](Verdict verdict) {
    return std::any_of(judgements.begin(), judgements.end(),
                       [&](const Judgement& j) { return j.verdict == verdict; });
  };
  if (any(Verdict::does_not_hold)) return Verdict::does_not_hold;
  if (judgements.empty() || any(Verdict::could_not_be_told)) return Verdict::could_not_be_told;
  return Verdict::holds;
}

}  // namespace formwork
