// Drawing the next token from a model's logits.
#pragma once

#include <cstdint>

#include "core/options.h"
#include "core/random.h"
#include "methods/module.h"

namespace formwork {

struct SamplingOptions {
  double temperature = 1.0;  // 0 = always the likeliest
  int64_t top_k = 0;         // 0 = all
  double top_p = 1.0;
  double min_p = 0.0;
  void describe(OptionSet& o);
};

/// One token id from logits [V]. Temperature first, then the k likeliest, then the smallest set
/// whose probability reaches top_p (Holtzman et al. 2019, arXiv 1904.09751), then those at least
/// min_p times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082).
int64_t sample(const Tensor& logits, const SamplingOptions& options, Random& random);

}  // namespace formwork
