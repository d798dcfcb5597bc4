#include "methods/stem/stem.h"

namespace formwork {
namespace {

struct PatchOptions {
  int64_t size = 4;
  void describe(OptionSet& o) {
    o.add("size", size, "side of the square patches in pixels; 1 makes a token of every pixel",
          at_least(1));
  }
};

/// Square patches of an image, row by row, through one linear map: [B,C,H,W] → [B,(H/s)(W/s),D].
/// Dosovitskiy et al. 2020 (ViT).
class PatchStem final : public Stem {
 public:
  PatchStem(const PatchOptions& options, const StemSite& site)
      : size_(options.size), channels_(site.input.channels) {
    check(site.input.height % size_ == 0 && site.input.width % size_ == 0, "model.stem.size",
          "found ", size_, ", but the images are ", site.input.height, " x ", site.input.width,
          "; valid: a common divisor of both sides");
    tokens_ = (site.input.height / size_) * (site.input.width / size_);
    projection_ = add_module("projection", site.linear("projection", channels_ * size_ * size_,
                                                       site.width, Role::embedding, true));
  }
  static Traits traits(const PatchOptions&) {
    return {.takes = InputForm::Kind::image, .patches = true};
  }

  Tensor forward(const Tensor& input, Stream& stream) override {
    const int64_t batch = input.size(0);
    const int64_t rows = input.size(2) / size_;
    const int64_t columns = input.size(3) / size_;
    const Tensor patches = input.reshape({batch, channels_, rows, size_, columns, size_})
                               .permute({0, 2, 4, 1, 3, 5})
                               .reshape({batch, rows * columns, channels_ * size_ * size_})
                               .to(projection_->bias().scalar_type());
    stream.carried["patches"] = patches;
    return projection_->forward(patches);
  }
  int64_t tokens(int64_t) const override { return tokens_; }
  int64_t patch_width() const override { return channels_ * size_ * size_; }

 private:
  int64_t size_, channels_, tokens_ = 0;
  std::shared_ptr<Linear> projection_;
};

const Register<Stem, PatchStem, PatchOptions> patch{"patch", "square patches of an image",
                                                    cite("2010.11929"), specified_by("")};

}  // namespace
}  // namespace formwork
