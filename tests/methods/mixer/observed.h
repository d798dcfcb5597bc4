// What a mixer shows to an observer.
#pragma once

#include <c10/core/GradMode.h>

#include <map>
#include <string>

#include "methods/mixer/mixer.h"
#include "support/mixers.h"

namespace formwork::test {

/// Keeps all that it is shown.
struct Recorder final : Observer {
  std::map<std::string, Tensor> seen;
  void see(const std::string& point, const Tensor& tensor) override { seen[point] = tensor; }
};

/// "scores", "attention" ... of a mixer on x [B,N,D] at positions that begin with `first`.
inline Tensor observed(Mixer& mixer, const Tensor& x, const std::string& what, int64_t first = 0) {
  const c10::NoGradGuard no_grad;
  Recorder recorder;
  Stream stream;
  stream.place = "it";
  stream.observer = &recorder;
  stream.positions = at::arange(first, first + x.size(1));
  mixer.forward(x, stream);
  return recorder.seen.at("it." + what);
}

/// The mixer with a golden file's parameters gives its outputs, weights and gradients, as far as
/// the file has them; the mixer must have exactly those parameters.
inline void expect_golden(Mixer& mixer, const GoldenCase& golden) {
  {
    const c10::NoGradGuard no_grad;
    const auto own = mixer.named_tensors();
    ASSERT_EQ(own.size(), golden.under("param.").size());
    for (const auto& [name, value] : golden.under("param.")) Tensor(own.at(name)).copy_(value);
  }
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const Tensor valid = golden.has("in.pad_mask") ? golden.at("in.pad_mask") > 0.5 : Tensor();
  const Tensor y = run(mixer, x, valid);
  expect_close("y", y, golden.at("out.y"));
  if (golden.has("out.weights") && !valid.defined())
    expect_close("weights", observed(mixer, x, "attention"), golden.at("out.weights"));
  if (!golden.has("in.cotangent")) return;
  (y * golden.at("in.cotangent")).sum().backward();
  if (golden.has("grad.in.x")) expect_close("x", x.grad(), golden.at("grad.in.x"));
  for (const Parameter& parameter : mixer.parameters())
    if (golden.has("grad.param." + parameter.name))
      expect_close(parameter.name, parameter.tensor.grad(),
                   golden.at("grad.param." + parameter.name));
}

}  // namespace formwork::test
