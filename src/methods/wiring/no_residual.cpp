#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

/// x ← F(Norm(x)): pre without the residual addition, for experiments on what it carries; chosen
/// for some layers by [[model.layer]]. Zuo, Guerzhoy 2024, arXiv 2402.05969.
class NoResidual final : public Wiring {
 public:
  NoResidual(const NoOptions&, const Site& site)
      : Wiring(site), norm_in_(add_module("norm_in", site.make_norm(site.width))) {}
  static Traits traits(const NoOptions&) { return {.final_norm = true}; }
  void forward(Stream& stream, const Sublayer& sublayer) override {
    const Tensor branch = sublayer(norm_in_->forward(stream.x, stream.valid));
    stream.x = add(stream, at::zeros_like(stream.x), branch);
  }

 private:
  std::shared_ptr<Norm> norm_in_;
};

const Register<Wiring, NoResidual> no_residual{
    "no_residual", "the sublayer's output alone, norm before it: for experiments",
    cite("2402.05969"), specified_by("breaking_symmetry")};

}  // namespace
}  // namespace formwork
