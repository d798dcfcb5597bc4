#include "methods/wiring/output_norm.h"

namespace formwork {
namespace {

/// x ← x + Nout(F(Nin(x))), final norm, the embedding left alone.
class Sandwich final : public OutputNorm {
 public:
  Sandwich(const OutputNormOptions& options, const Site& site) : OutputNorm(options, site, true) {}
  static Traits traits(const OutputNormOptions&) { return {.final_norm = true}; }
};

const Register<Wiring, Sandwich, OutputNormOptions> sandwich{
    "sandwich", "norms before and after the sublayer", cite("Ding et al. 2021, 2105.13290"),
    specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
