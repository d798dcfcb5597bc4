// What peri, sandwich and output share: a norm on the branch before the addition.
#pragma once

#include "methods/wiring/wiring.h"

namespace formwork {

struct OutputNormOptions {
  double gamma_out_init = 1.0;
  bool learn_gamma_out = true;
  void describe(OptionSet& o);
};

/// x ← x + Nout(F(Nin(x))), or without Nin. Kim et al. 2025, arXiv 2502.02732.
class OutputNorm : public Wiring {
 public:
  OutputNorm(const OutputNormOptions& options, const Site& site, bool norm_in);
  void forward(Stream& stream, const Sublayer& sublayer) override;

 private:
  std::shared_ptr<Norm> norm_in_;  // null without
  std::shared_ptr<Norm> norm_out_;
};

}  // namespace formwork
