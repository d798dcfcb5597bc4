#include "methods/stem/stem.h"

namespace formwork {
namespace {

struct SeriesOptions {
  int64_t patch = 1;
  int64_t stride = 0;
  void describe(OptionSet& o) {
    o.add("patch", patch, "time steps that make one token", at_least(1));
    o.add("stride", stride, "time steps from one token to the next; 0 = patch", at_least(0));
  }
};

/// Numeric channels over time: windows of `patch` steps of all channels through one linear map,
/// [B,N,C] → [B,(N-patch)/stride+1,D]. Patching after Nie et al. 2023 (arXiv 2211.14730), with the
/// channels kept together.
class SeriesStem final : public Stem {
 public:
  SeriesStem(const SeriesOptions& options, const StemSite& site)
      : patch_(options.patch), stride_(options.stride == 0 ? options.patch : options.stride) {
    check(patch_ <= site.input.length || site.input.length == 0, "model.stem.patch", "found ",
          patch_, ", but the series has ", site.input.length, " steps; valid: at most that");
    projection_ = add_module("projection", site.linear("projection", site.input.channels * patch_,
                                                       site.width, Role::embedding, true));
  }
  static Traits traits(const SeriesOptions& options) {
    return {.takes = InputForm::Kind::series, .causal = options.patch == 1};
  }

  Tensor forward(const Tensor& input, Stream&) override {
    const Tensor x = input.to(projection_->bias().scalar_type());
    if (patch_ == 1 && stride_ == 1) return projection_->forward(x);
    return projection_->forward(x.unfold(1, patch_, stride_).flatten(2));
  }
  int64_t tokens(int64_t input_length) const override {
    return (input_length - patch_) / stride_ + 1;
  }

 private:
  int64_t patch_, stride_;
  std::shared_ptr<Linear> projection_;
};

const Register<Stem, SeriesStem, SeriesOptions> series{"series", "numeric channels over time",
                                                       cite("2211.14730"), specified_by("")};

}  // namespace
}  // namespace formwork
