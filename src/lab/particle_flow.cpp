#include "lab/particle_flow.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/random.h"
#include "methods/mixer/mixer.h"
#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

constexpr int64_t kWidth = 4;

/// A layer in float64 that sees the particles themselves, without norms.
struct FlowLayer {
  std::shared_ptr<Mixer> mixer;
  std::shared_ptr<Wiring> wiring;

  FlowLayer(const Table& mixer_options, const char* integrator, double h) {
    Choice<Wiring> choice("sympformer");
    choice.set({{"integrator", Value(integrator)},
                {"h", Value(h)},
                {"damping", Value("log")},
                {"c_log", Value(3.0)},
                {"momentum_norm", Value("none")}});
    Site site = plain_site(kWidth);
    site.make_linear = [](const LinearSite& at) {
      LinearSite wide = at;
      wide.init.kind = "xavier_uniform";  // weights that differ from token to token
      return Choice<Linear>("dense").make(wide);
    };
    site.make_norm = [](int64_t width) {
      NormSite at;
      at.width = width;
      return Choice<Norm>("none").make(at);
    };
    site.oracle_calls = choice.traits().oracle_calls;
    site.oracle_positions = choice.traits().oracle_positions;
    mixer = Choice<Mixer>("sympformer").set(mixer_options).make(site);
    wiring = choice.make(site);
    mixer->to(at::kDouble);
    wiring->to(at::kDouble);
  }

  /// A and V of the linear kernel.
  void set(const std::string& name, const Tensor& matrix) const {
    mixer->named_tensors().at(name + ".weight").copy_(matrix);
  }
  void step(Stream& stream) const {
    wiring->forward(stream, [&](const Tensor& x) { return mixer->forward(x, stream, nullptr); });
  }
};

/// Symmetric with eigenvalues between `least` and 1, not along the axes.
Tensor definite_matrix(double least) {
  const Tensor wave = (at::arange(kWidth * kWidth, at::kDouble) * 1.7).cos();
  const Tensor basis = std::get<0>(at::linalg_qr(wave.view({kWidth, kWidth})));
  return at::matmul(basis * at::linspace(least, 1.0, kWidth, at::kDouble), basis.t());
}

/// Uniform in a skewed box: no elliptical law. [1,256,4].
Tensor particles(uint64_t seed) {
  Random random(seed);
  std::vector<double> numbers(256 * kWidth);
  for (double& number : numbers) number = random.uniform() - 0.4;
  return 4.0 * at::matmul(at::tensor(numbers).view({1, 256, kWidth}), definite_matrix(0.3));
}

}  // namespace

double flow_nonlinearity(const std::string& kernel) {
  const c10::NoGradGuard no_grad;
  const FlowLayer layer({{"kernel", Value(kernel)}, {"metric", Value("free")}}, "euler", 0.05);
  if (kernel == "linear") {
    layer.set("A", definite_matrix(0.5));
    layer.set("V", -definite_matrix(0.2));
  }
  Stream stream;
  stream.x = particles(1);
  stream.carried["momentum"] = particles(2);
  const Tensor start = at::cat({stream.x, stream.carried["momentum"]}, 2)[0];
  for (int i = 0; i < 100; ++i) layer.step(stream);
  const Tensor end = at::cat({stream.x, stream.carried["momentum"]}, 2)[0];
  const Tensor given = at::cat({start, at::ones({start.size(0), 1}, at::kDouble)}, 1);
  const Tensor map = std::get<0>(at::linalg_lstsq(given, end));
  return ((at::matmul(given, map) - end).norm() / (end - end.mean(0)).norm()).item<double>();
}

double energy_decay(bool accelerated) {
  const c10::NoGradGuard no_grad;
  const Tensor v = -definite_matrix(0.2);
  const FlowLayer layer(
      {{"kernel", Value("linear")}, {"order", Value(int64_t{accelerated ? 2 : 1})}},
      accelerated ? "presymp_euler" : "first_order", 0.01);
  layer.set("A", definite_matrix(0.5));
  layer.set("V", v);
  Stream stream;
  stream.x = particles(1);
  if (accelerated) stream.carried["momentum"] = at::zeros_like(stream.x);
  double at_half = 0.0;
  const auto energy = [&] {
    return -0.5 * (at::matmul(stream.x, v) * stream.x).sum(-1).mean().item<double>();
  };
  for (int i = 1; i <= 4000; ++i) {
    layer.step(stream);
    if (i == 2000) at_half = energy();
  }
  return at_half / energy();
}

}  // namespace formwork
