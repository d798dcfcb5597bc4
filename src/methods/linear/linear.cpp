#include "methods/linear/linear.h"

#include <cmath>

namespace formwork {

void InitOptions::describe(OptionSet& o) {
  o.add("kind", kind, "distribution of the weights of linear maps at the start",
        one_of({"normal", "xavier_uniform", "lecun_normal", "kaiming_uniform", "zeros"}));
  o.add("deviation", deviation, "standard deviation of kind normal", at_least(0));
  o.add("scale_residual", scale_residual,
        "divide the maps that write to the residual stream (output, down) by sqrt(2 L)");
}

Tensor initial_weight(const InitOptions& init, int64_t out, int64_t in, Role role, int64_t depth,
                      const RandomStream& random) {
  Tensor weight;
  const double fan_in = static_cast<double>(in);
  const double fan_out = static_cast<double>(out);
  if (init.kind == "normal") {
    weight = normal_tensor({out, in}, init.deviation, random);
  } else if (init.kind == "xavier_uniform") {
    const double bound = std::sqrt(6.0 / (fan_in + fan_out));
    weight = uniform_tensor({out, in}, -bound, bound, random);
  } else if (init.kind == "lecun_normal") {
    weight = normal_tensor({out, in}, 1.0 / std::sqrt(fan_in), random);
  } else if (init.kind == "kaiming_uniform") {
    const double bound = std::sqrt(1.0 / fan_in);
    weight = uniform_tensor({out, in}, -bound, bound, random);
  } else {
    weight = at::zeros({out, in});
  }
  const bool writes_residual = role == Role::output || role == Role::down;
  if (writes_residual && init.scale_residual)
    weight.div_(std::sqrt(2.0 * static_cast<double>(depth)));
  return weight;
}

}  // namespace formwork
