#include "methods/wiring/wiring.h"

#include "methods/dropout.h"

namespace formwork {

Tensor Wiring::drop(const Tensor& branch) const {
  return dropped(branch, dropout_, training());
}

Tensor Wiring::add(Stream& stream, const Tensor& residual, const Tensor& branch) const {
  const Tensor kept = drop(branch);
  if (residual.size(1) == kept.size(1)) return residual + kept;
  const Tensor sum = stream.resample(residual) + kept;
  stream.resample = nullptr;
  return sum;
}

Tensor Wiring::add_and_norm(Stream& stream, const Tensor& residual, const Tensor& branch,
                            Norm& norm) const {
  if (residual.size(1) != branch.size(1))
    return norm.forward(add(stream, residual, branch), stream.valid);
  return norm.add(residual, drop(branch), stream.valid).y;
}

void run_sublayer(Stream& stream, Wiring& wiring, const std::string& place, const Sublayer& body) {
  if (!stream.observer) {
    wiring.forward(stream, body);
    return;
  }
  stream.place = place;
  if (stream.valid.defined()) stream.show("valid", stream.valid);
  wiring.forward(stream, [&](const Tensor& x) {
    stream.show("input", x);
    const Tensor branch = body(x);
    if (branch.defined()) stream.show("branch", branch);
    return branch;
  });
  stream.show("stream", stream.x);
}

}  // namespace formwork
