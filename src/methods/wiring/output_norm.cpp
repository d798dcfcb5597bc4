#include "methods/wiring/output_norm.h"

#include <c10/core/GradMode.h>

namespace formwork {

void OutputNormOptions::describe(OptionSet& o) {
  o.add("gamma_out_init", gamma_out_init, "start of the scale of the norm on the branch");
  o.add("learn_gamma_out", learn_gamma_out, "train that scale");
}

OutputNorm::OutputNorm(const OutputNormOptions& options, const Site& site, bool norm_in)
    : Wiring(site),
      norm_in_(norm_in ? add_module("norm_in", site.make_norm(site.width)) : nullptr),
      norm_out_(add_module("norm_out", site.make_norm(site.width))) {
  const bool plain = options.gamma_out_init == 1.0 && options.learn_gamma_out;
  Tensor gain = norm_out_->gain();
  check(plain || gain.defined(), site.name,
        "gamma_out_init and learn_gamma_out need a norm with a scale, but model.norm has none; use "
        "layer_norm, rms_norm or scale_norm");
  if (plain) return;
  const c10::NoGradGuard no_grad;
  gain.fill_(options.gamma_out_init);
  gain.requires_grad_(options.learn_gamma_out);
}

void OutputNorm::forward(Stream& stream, const Sublayer& sublayer) {
  const Tensor in = norm_in_ ? norm_in_->forward(stream.x, stream.valid) : stream.x;
  const Tensor branch = sublayer(in);
  // A mixer that shortened the sequence has set the stream's validity to the new length.
  stream.x = add(stream, stream.x, norm_out_->forward(branch, stream.valid));
}

}  // namespace formwork
