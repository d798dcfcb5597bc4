#include "methods/wiring/output_norm.h"

namespace formwork {
namespace {

/// x ← x + Nout(F(Nin(x))), embedded tokens normed first, final norm.
class Peri final : public OutputNorm {
 public:
  Peri(const OutputNormOptions& options, const Site& site) : OutputNorm(options, site, true) {}
  static Traits traits(const OutputNormOptions&) {
    return {.final_norm = true, .embed_norm = true};
  }
};

const Register<Wiring, Peri, OutputNormOptions> peri{
    "peri", "norms before and after the sublayer, and on the embedding (Peri-LN)",
    cite("Kim et al. 2025, 2502.02732"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork
