#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct CausalityOptions {
  int64_t positions = 32;
  double tolerance = 1e-5;
  void describe(OptionSet& o) {
    o.add("positions", positions,
          "outputs whose gradients are taken, and inputs that are changed, evenly spread",
          at_least(2));
    o.add("tolerance", tolerance,
          "a change or gradient below this part of the greatest is none: rounding of transforms",
          above(0));
  }
};

/// Keeps the vectors [B,N,D] at every point of the stack that makes the output.
class Watch final : public SelectiveObserver {
 public:
  void see(const std::string& point, const Tensor& tensor) override {
    if (point.starts_with("encoder.")) return;
    const bool watched = point.ends_with("stem.tokens") || point.ends_with("stem.conditioned") ||
                         point.ends_with("stem.output") || point.ends_with("final.output") ||
                         !place_at(point, "stream").empty();
    if (watched) seen_.emplace_back(point, tensor);
  }
  bool wants(const std::string&) const override { return false; }
  const std::vector<std::pair<std::string, Tensor>>& seen() const { return seen_; }

 private:
  std::vector<std::pair<std::string, Tensor>> seen_;
};

/// Which inputs can change which outputs (the vectors before the head), found twice: by the
/// gradients of outputs, and by changing inputs and looking, which also finds paths without a
/// gradient. Where a causal model sees the future, the first place where it does.
class Causality final : public Probe {
 public:
  Causality(const CausalityOptions& options, const ProbeSite& site)
      : options_(options), random_(site.random.child("causality")) {}
  static Traits traits(const CausalityOptions&) { return {.experiments = true, .recorded = false}; }

  void experiment(Subject& subject) override {
    causal_ = subject.causal();
    by_gradient(subject);
    if (shortened_.empty() && length_ > 1) by_change(subject);
  }
  Findings findings() override;

 private:
  struct Links {
    Tensor strength;  // [N,N] outputs x inputs, relative to the greatest; NaN = not tried
    int64_t tried = 0, linked = 0, future = 0, back = 0, ahead = 0;
  };

  std::vector<int64_t> places() const;
  Tensor real(const Tensor& x) const;
  void by_gradient(Subject& subject);
  void by_change(Subject& subject);
  void change_padding(Subject& subject, const Watch& base);
  std::vector<std::pair<std::string, Tensor>> changed(Subject& subject, const Tensor& which);
  void count(Links& links) const;
  std::string verdict() const;

  CausalityOptions options_;
  RandomStream random_;
  bool causal_ = false;
  int64_t length_ = 0;
  Tensor valid_;
  std::string shortened_, leak_place_, padding_place_;
  int64_t leak_input_ = -1, leak_output_ = -1;
  Links gradients_, changes_;
};

std::vector<int64_t> Causality::places() const {
  const int64_t count = std::min(options_.positions, length_);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < count; ++i)
    all.push_back(count > 1 ? (i * (length_ - 1) + (count - 1) / 2) / (count - 1) : 0);
  return all;
}

/// [B,N,D] → [B,N] the greatest size over channels, 0 at padded tokens.
Tensor Causality::real(const Tensor& x) const {
  const Tensor size = x.abs().amax(-1).to(at::kDouble);
  return valid_.defined() ? size * valid_ : size;
}

void Causality::by_gradient(Subject& subject) {
  Watch watch;
  Subject::Run run;
  run.watcher = &watch;
  subject.run(run);
  const Tensor tokens = watch.seen().front().second, output = watch.seen().back().second;
  length_ = tokens.size(1);
  valid_ = subject.valid();
  for (const auto& [point, x] : watch.seen())
    if (x.size(1) != length_ && shortened_.empty()) shortened_ = point;
  if (!shortened_.empty()) return;
  gradients_.strength = at::full({length_, length_}, std::nan(""), at::kDouble);
  changes_.strength = gradients_.strength.clone();
  if (!output.requires_grad() || !tokens.requires_grad()) return;
  // Random directions: a plain sum over channels has no gradient behind a layer norm.
  const Tensor direction = normal_tensor(output.sizes(), 1.0, random_).to(output.options());
  for (const int64_t i : places()) {
    const Tensor one = (output.select(1, i) * direction.select(1, i)).sum();
    const auto found = torch::autograd::grad({one}, {tokens}, {}, true, false, true);
    const Tensor gradient =
        found[0].defined() ? real(found[0]) : at::zeros(tokens.sizes().slice(0, 2), at::kDouble);
    Tensor size = gradient;
    // Outputs at padded tokens are nobody's.
    if (valid_.defined()) size = size * valid_.select(1, i).unsqueeze(1);
    const Tensor strongest = size.amax(0);
    gradients_.strength[i].copy_(strongest / strongest.max().clamp_min(1e-300));
  }
  count(gradients_);
  const Tensor future = (gradients_.strength > options_.tolerance).triu(1).nonzero();
  if (future.size(0) == 0) return;
  leak_output_ = future[0][0].item<int64_t>();
  leak_input_ = future[0][1].item<int64_t>();
}

/// The points of a run in which the tokens `which` [N] bool are others.
std::vector<std::pair<std::string, Tensor>> Causality::changed(Subject& subject,
                                                               const Tensor& which) {
  Watch watch;
  Subject::Run run;
  run.watcher = &watch;
  const Tensor ids = subject.input();
  const int64_t added = subject.added();
  const bool by_id = subject.vocabulary() > 1 && ids.dim() == 2 && ids.size(1) + added == length_ &&
                     !which.slice(0, 0, added).any().item<bool>();
  if (by_id) {
    const Tensor other = (ids + 1).remainder(subject.vocabulary());
    run.input = at::where(which.slice(0, added).unsqueeze(0), other, ids);
  } else {
    run.edit = [&](Tensor vectors) {
      const Tensor noise = normal_tensor(vectors.sizes(), 1.0, random_.child("change"));
      const Tensor size = vectors.square().mean().sqrt().clamp_min(1e-6);
      vectors.add_(noise.to(vectors.options()) * size *
                   which.to(vectors.options()).unsqueeze(0).unsqueeze(-1));
    };
  }
  subject.run(run);
  return watch.seen();
}

void Causality::by_change(Subject& subject) {
  const c10::NoGradGuard no_grad;
  Watch base;
  Subject::Run run;
  run.watcher = &base;
  subject.run(run);
  std::vector<int64_t> inputs = places();
  // A link that the gradient found is looked at too, to tell where it begins.
  if (leak_input_ >= 0) inputs.insert(inputs.begin(), leak_input_);
  size_t first_leak = base.seen().size();
  for (const int64_t j : inputs) {
    const auto seen = changed(subject, at::arange(length_) == j);
    for (size_t p = 0; p < seen.size(); ++p) {
      const Tensor& before = base.seen()[p].second;
      const Tensor difference = real(seen[p].second - before);
      Tensor strength = (difference / before.abs().max().to(at::kDouble).clamp_min(1e-300));
      if (valid_.defined()) strength = strength * valid_.select(1, j).unsqueeze(1);
      strength = strength.amax(0);  // [N]
      if (p + 1 == seen.size()) changes_.strength.select(1, j).copy_(strength);
      if (p >= first_leak || j == 0) continue;
      const Tensor earlier = (strength.slice(0, 0, j) > options_.tolerance).nonzero();
      if (earlier.size(0) == 0) continue;
      first_leak = p;
      leak_place_ = seen[p].first;
      leak_input_ = j;
      leak_output_ = earlier[0].item<int64_t>();
    }
  }
  count(changes_);
  change_padding(subject, base);
}

/// Padded tokens must not change anything that counts.
void Causality::change_padding(Subject& subject, const Watch& base) {
  if (!valid_.defined()) return;
  const Tensor always_padded = valid_.logical_not().all(0);
  if (!always_padded.any().item<bool>()) return;
  const auto seen = changed(subject, always_padded);
  for (size_t p = 0; p < seen.size() && padding_place_.empty(); ++p) {
    const Tensor& before = base.seen()[p].second;
    const double change = real(seen[p].second - before).max().item<double>();
    if (change > options_.tolerance * before.abs().max().item<double>())
      padding_place_ = seen[p].first;
  }
}

void Causality::count(Links& links) const {
  const Tensor tried = links.strength.isnan().logical_not();
  const Tensor linked = (links.strength > options_.tolerance).logical_and(tried);
  const Tensor output = at::arange(length_).unsqueeze(1), input = at::arange(length_);
  const Tensor ahead = (input - output).expand({length_, length_});
  links.tried = tried.sum().item<int64_t>();
  links.linked = linked.sum().item<int64_t>();
  links.future = linked.logical_and(ahead > 0).sum().item<int64_t>();
  if (links.linked == 0) return;
  links.ahead = std::max<int64_t>(0, ahead.index({linked}).max().item<int64_t>());
  links.back = std::max<int64_t>(0, -ahead.index({linked}).min().item<int64_t>());
}

std::string Causality::verdict() const {
  const bool future = gradients_.future > 0 || changes_.future > 0 || !leak_place_.empty();
  const std::string reach =
      join_text("; links reach ", std::max(gradients_.back, changes_.back), " tokens back and ",
                std::max(gradients_.ahead, changes_.ahead), " ahead");
  const std::string tried = join_text(" (", length_, " tokens; ", gradients_.tried,
                                      " pairs by gradient, ", changes_.tried, " by change)");
  if (!future)
    return (causal_ ? "causal: no input can change an earlier output"
                    : "causal, though it need not be: no input can change an earlier output") +
           tried + reach;
  if (!causal_) return "sees both ways, as it may" + tried + reach;
  std::string where = "the gradient alone shows it";
  if (!leak_place_.empty())
    where = join_text("first at ", leak_place_, ", where input ", leak_input_, " changes output ",
                      leak_output_);
  return "LEAK: a causal model sees the future, " + where + tried + reach;
}

Findings Causality::findings() {
  Findings found;
  if (!shortened_.empty()) {
    found.say("the sequence gets another length at " + shortened_ +
              ", so outputs cannot be set beside inputs");
    return found;
  }
  if (length_ < 2) {
    found.say("there is one token only, so there is nothing to see ahead of");
    return found;
  }
  found.say(verdict());
  if (gradients_.tried == 0)
    found.say("no gradient reaches the embedded tokens, so only changes tell");
  const Tensor both =
      gradients_.strength.isnan().logical_or(changes_.strength.isnan()).logical_not();
  const Tensor hidden = both.logical_and(gradients_.strength == 0)
                            .logical_and(changes_.strength > options_.tolerance);
  const int64_t without = hidden.sum().item<int64_t>();
  if (without > 0)
    found.say(join_text(without,
                        " pairs have no gradient though a change passes: a "
                        "discrete or detached path"));
  if (!padding_place_.empty())
    found.say("LEAK: padded tokens change what counts, first at " + padding_place_);
  Figures links = figures_of(
      "links", "Which inputs can change which outputs", "found by",
      {"pairs tried", "linked", "to the future", "farthest back", "farthest ahead"}, Plot::none);
  for (const auto& [name, l] :
       {std::pair("gradient", &gradients_), std::pair("change", &changes_)}) {
    std::vector<double> row;
    for (const int64_t n : {l->tried, l->linked, l->future, l->back, l->ahead})
      row.push_back(static_cast<double>(n));
    links.rows.emplace_back(name, std::move(row));
  }
  found.figures.push_back(std::move(links));
  found.pictures.push_back({"gradient", "output", "input", gradients_.strength.to(at::kFloat)});
  found.pictures.push_back({"change", "output", "input", changes_.strength.to(at::kFloat)});
  return found;
}

const Register<Probe, Causality, CausalityOptions> causality{
    "causality", "which inputs can change which outputs; where a causal model leaks",
    cite("Formwork"), specified_by("breaking_symmetry")};

}  // namespace
}  // namespace formwork
