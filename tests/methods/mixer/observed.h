// What a mixer shows to an observer.
#pragma once

#include <c10/core/GradMode.h>

#include <map>
#include <string>

#include "methods/mixer/mixer.h"

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

}  // namespace formwork::test
