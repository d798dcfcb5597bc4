#include <algorithm>
#include <cmath>
#include <numeric>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct SpectrumOptions {
  std::string of = "both";
  int64_t points = 33;
  void describe(OptionSet& o) {
    o.add("of", of, "what is decomposed", one_of({"weights", "updates", "both"}));
    o.add("points", points, "singular values drawn, from the largest to the smallest",
          between(2, 1024));
  }
};

/// Singular values of the matrices of a model, and of their change (since the step before while
/// training, since the initialisation afterwards): the largest, the condition number, the stable
/// rank ||W||_F² / ||W||_2² and the effective rank exp(H(s²/sum s²)) (Roy & Vetterli 2007); and the
/// whole spectrum of each role, s_i / s_1, the geometric mean over its matrices.
class Spectrum final : public Probe {
 public:
  Spectrum(const SpectrumOptions& options, const ProbeSite& site)
      : options_(options), site_(site) {}
  static Traits traits(const SpectrumOptions& o) { return {.updates = o.of != "weights"}; }

  Findings findings() override {
    Findings found;
    if (options_.of != "updates") describe(found, "weights", "weights", "", false);
    if (options_.of == "weights") return found;
    if (site_.before.size() == site_.parameters.size())
      describe(found, "updates", "changes since " + site_.since, "update.", true);
    else
      found.say("no earlier weights are known, so updates are not measured");
    return found;
  }

 private:
  /// [points] s_i / s_1 at equal steps of i.
  Tensor curve(const Tensor& s) const {
    const Tensor at_points =
        at::linspace(0, static_cast<double>(s.size(0) - 1), options_.points).round().to(at::kLong);
    return (s.index_select(0, at_points) / s[0]).clamp_min(1e-16);
  }

  struct Matrix {
    const Parameter* parameter;
    Tensor values;  // [r], falling
  };
  std::vector<Matrix> decompose(bool update) const;
  void describe(Findings& found, const std::string& key, const std::string& what,
                const std::string& series, bool update) const;
  Figures table(const std::string& key, const std::string& what,
                const std::vector<Matrix>& matrices) const;

  SpectrumOptions options_;
  ProbeSite site_;
};

std::vector<Spectrum::Matrix> Spectrum::decompose(bool update) const {
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < site_.parameters.size(); ++i) {
    const Parameter& p = site_.parameters[i];
    if (p.tensor.dim() < 2 || p.tensor.size(0) < 2 || p.tensor.flatten(1).size(1) < 2) continue;
    Tensor w = p.tensor.detach().to(at::kDouble).flatten(1);
    if (update) w = w - site_.before[i].to(at::kDouble).flatten(1);
    const Tensor s = at::linalg_svdvals(w);
    if (s[0].item<double>() > 0.0) matrices.push_back({&p, s});
  }
  return matrices;
}

Figures Spectrum::table(const std::string& key, const std::string& what,
                        const std::vector<Matrix>& matrices) const {
  Figures rows = figures_of(key.c_str(), "Singular values of the " + what, "matrix",
                            {"largest", "condition", "stable rank", "effective rank", "full rank"},
                            Plot::none);
  for (const auto& [parameter, s] : matrices) {
    const Tensor share = s.square() / s.square().sum();
    rows.rows.emplace_back(parameter->name,
                           std::vector<double>{s[0].item<double>(), condition_of(s).item<double>(),
                                               stable_rank(s).item<double>(),
                                               std::exp(entropy_of(share).item<double>()),
                                               static_cast<double>(s.size(0))});
  }
  return rows;
}

void Spectrum::describe(Findings& found, const std::string& key, const std::string& what,
                        const std::string& series, bool update) const {
  const std::vector<Matrix> matrices = decompose(update);
  if (matrices.empty()) return found.say("no matrix among the " + what + " differs from 0");
  ByPlace<std::vector<Tensor>> curves;  // by role
  ByPlace<std::vector<double>> ranks, largest;
  for (const auto& [parameter, s] : matrices) {
    const std::string role = role_name(parameter->role);
    ranks[role].push_back(stable_rank(s).item<double>());
    largest[role].push_back(s[0].item<double>());
    curves[role].push_back(curve(s).log());
  }
  Figures roles = figures_of((key + "_by_role").c_str(),
                             "Stable rank and norm of the " + what + " by role, means", "role",
                             {"stable rank", "largest"}, Plot::none);
  Figures spectra =
      figures_of((key + "_spectrum").c_str(), "Spectrum of the " + what + " by role, s_i / s_1",
                 "% of the rank", {}, Plot::logarithmic);
  std::vector<Tensor> columns;
  for (auto& [role, all] : ranks) {
    const auto mean = [](const std::vector<double>& v) {
      return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
    };
    roles.rows.emplace_back(role, std::vector<double>{mean(all), mean(largest[role])});
    found.series.push_back({series + role, all});
    spectra.columns.push_back(role);
    columns.push_back(at::stack(curves[role]).mean(0).exp());
  }
  const Tensor points = at::stack(columns, 1);
  for (int64_t i = 0; i < options_.points; ++i) {
    const double part = static_cast<double>(i) / static_cast<double>(options_.points - 1);
    spectra.rows.emplace_back(figure_text(100 * part), numbers(points[i]));
  }
  found.figures.push_back(table(key, what, matrices));
  found.figures.push_back(std::move(roles));
  found.figures.push_back(std::move(spectra));
}

const Register<Probe, Spectrum, SpectrumOptions> spectrum{
    "spectrum", "singular values and stable rank of weights and of their changes, by role",
    cite("Roy & Vetterli 2007; Rudelson & Vershynin 2007"), specified_by("")};

}  // namespace
}  // namespace formwork
