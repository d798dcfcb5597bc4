#include "methods/wiring/output_norm.h"

namespace formwork {
namespace {

/// x ← x + Nout(F(x)), final norm.
class Output final : public OutputNorm {
 public:
  Output(const OutputNormOptions& options, const Site& site) : OutputNorm(options, site, false) {}
  static Traits traits(const OutputNormOptions&) { return {.final_norm = true}; }
};

const Register<Wiring, Output, OutputNormOptions> output{"output", "norm on the branch only",
                                                         cite("OLMo et al. 2025, 2501.00656"),
                                                         specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
