// A published statement as an experiment: claims/<slug>.toml.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "lab/plan.h"

namespace formwork {

/// One thing that should come out, `[[expect]]`.
struct Expectation {
  std::string kind = "lower";
  std::string variant;
  std::string metric;
  int64_t least = 0;
  double by = 0.0;
  double tolerance = 0.0;
  bool relative = false;
  Value at;
  std::string demonstration;
  double bound = 0.0;
  double exponent = 1.0;
  std::string key = "task.length";
  std::vector<int64_t> sizes;
  void describe(OptionSet& o);
  /// Whether it is timed through forward passes instead of trained.
  bool is_timed() const { return is_growth() || kind == "faster"; }
  bool is_growth() const { return kind == "grows_at_most" || kind == "grows_at_least"; }
  /// Whether it is computed from a method alone: no model, no variant.
  bool is_demonstrated() const { return kind == "at_most" || kind == "at_least"; }
  /// Whether it is said of trained models.
  bool is_trained() const { return !is_timed() && !is_demonstrated() && kind != "smaller"; }
  /// "validation_loss of rms_norm equals the baseline's within 2 %".
  std::string text() const;
};

struct Claim {
  std::string slug;  // of the file
  std::string citation, statement, specification, note;
  std::string needs;  // a file or folder of data; without it the claim is left out of "all"
  double minutes = 3.0;
  int64_t seeds = 3;
  std::string equal;
  Value recipe;    // a path beside the claim, or the recipe itself; none where all is demonstrated
  Value variants;  // [[variant]] as in recipes
  Value full;      // keys and values: the paper's own setting
  std::vector<Expectation> expectations;

  void describe(OptionSet& o);
  /// Reads a file; refuses what it does not know and expectations of variants that are not there.
  static Claim read(const std::string& path);
  /// Whether anything is expected of models.
  bool needs_recipe() const;
  /// The recipe with its variants, `full` applied where asked for.
  Value recipe_table(bool at_full_size) const;

 private:
  std::string path_;
};

}  // namespace formwork
