#include <cmath>

#include "methods/stem/stem.h"

namespace formwork {
namespace {

struct SpectrogramOptions {
  int64_t window = 400;
  int64_t hop = 160;
  int64_t mels = 80;
  double sample_rate = 16000.0;
  void describe(OptionSet& o) {
    o.add("window", window, "samples in a Hann window, also the size of the transform",
          at_least(16));
    o.add("hop", hop, "samples from one token to the next", at_least(1));
    o.add("mels", mels, "mel bands; 0 = all frequencies of the transform", at_least(0));
    o.add("sample_rate", sample_rate, "samples a second, for the mel scale", above(0));
  }
};

double mel(double hertz) {
  return 2595.0 * std::log10(1.0 + hertz / 700.0);
}

/// Triangular bands, equally spaced in mel from 0 to half the sample rate: [F, mels].
Tensor mel_bands(int64_t frequencies, int64_t mels, double sample_rate) {
  const Tensor points = at::linspace(0.0, mel(sample_rate / 2.0), mels + 2, at::kDouble);
  const Tensor edges = 700.0 * (at::pow(10.0, points / 2595.0) - 1.0);
  const Tensor hertz = at::linspace(0.0, sample_rate / 2.0, frequencies, at::kDouble).unsqueeze(1);
  const Tensor low = edges.slice(0, 0, mels);
  const Tensor middle = edges.slice(0, 1, mels + 1);
  const Tensor high = edges.slice(0, 2, mels + 2);
  const Tensor rising = (hertz - low) / (middle - low);
  const Tensor falling = (high - hertz) / (high - middle);
  return at::minimum(rising, falling).clamp_min(0.0).to(at::kFloat);
}

/// Log spectrogram of audio samples through one linear map: [B,S] → [B,1+(S-window)/hop,D].
/// Gong et al. 2021 (AST, arXiv 2104.01778) without its patches: one token a frame.
class SpectrogramStem final : public Stem {
 public:
  SpectrogramStem(const SpectrogramOptions& options, const StemSite& site) : options_(options) {
    const int64_t frequencies = options.window / 2 + 1;
    check(options.mels <= frequencies, "model.stem.mels", "found ", options.mels,
          "; valid: at most window/2+1 = ", frequencies);
    check(site.input.length >= options.window, "model.stem.window", "found ", options.window,
          ", but the audio has ", site.input.length, " samples; valid: at most that");
    window_ = at::hann_window(options.window);
    if (options.mels > 0) bands_ = mel_bands(frequencies, options.mels, options.sample_rate);
    projection_ = add_module(
        "projection", site.linear("projection", options.mels > 0 ? options.mels : frequencies,
                                  site.width, Role::embedding, true));
  }
  static Traits traits(const SpectrogramOptions&) {
    return {.takes = InputForm::Kind::audio, .causal = false};
  }

  Tensor forward(const Tensor& input, Stream&) override {
    const Tensor frames =
        input.to(at::kFloat).unfold(1, options_.window, options_.hop) * window_.to(input.device());
    Tensor power = at::abs(at::fft_rfft(frames)).square();
    if (bands_.defined()) power = at::matmul(power, bands_.to(input.device()));
    // 1e-10 keeps silence finite (-23 after the logarithm).
    return projection_->forward(power.clamp_min(1e-10).log().to(projection_->bias().scalar_type()));
  }
  int64_t tokens(int64_t samples) const override {
    return 1 + (samples - options_.window) / options_.hop;
  }

 private:
  SpectrogramOptions options_;
  Tensor window_, bands_;
  std::shared_ptr<Linear> projection_;
};

const Register<Stem, SpectrogramStem, SpectrogramOptions> spectrogram{
    "spectrogram", "log spectrogram of audio, one token a frame", cite("2104.01778"),
    specified_by("")};

}  // namespace
}  // namespace formwork
