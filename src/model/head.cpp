#include "kernels/linear_map.h"
#include "model/model.h"

namespace formwork {

Head::Head(const HeadOptions& options, const OutputForm& output, const Site& site,
           const Tensor& tied_table, bool exact)
    : options_(options), output_(output), exact_(exact) {
  if (options.tied) {
    tied_table_ = tied_table;
    return;
  }
  int64_t in = site.width;
  if (options.pooling == "flatten") in *= site.length;
  if (options.hidden > 0) {
    hidden_ = add_module("hidden", site.linear("hidden", in, options.hidden, Role::head, true));
    in = options.hidden;
  }
  const bool values = output.kind == OutputForm::Kind::values;
  const int64_t out = values ? output.size * output.horizon : output.size;
  const bool bias = options.bias.value_or(output.kind != OutputForm::Kind::tokens);
  projection_ = add_module("", site.linear("projection", in, out, Role::head, bias));
}

Tensor Head::pool(const Tensor& x, const Tensor& valid) const {
  if (options_.pooling == "cls") return x.select(1, 0);
  if (options_.pooling == "flatten") return x.flatten(1);
  if (options_.pooling == "last") {
    if (!valid.defined()) return x.select(1, -1);
    const Tensor last = valid.to(at::kLong).sum(1).sub(1).clamp_min(0);
    return x.gather(1, last.view({-1, 1, 1}).expand({-1, 1, x.size(2)})).squeeze(1);
  }
  if (!valid.defined() || options_.mean_over_padding) return x.mean(1);
  const Tensor weight = valid.unsqueeze(-1).to(x.scalar_type());
  return (x * weight).sum(1) / weight.sum(1).clamp_min(1.0);
}

bool Head::pack_table(PackedForm form) {
  if (!tied_table_.defined() || tied_table_.scalar_type() != at::kFloat) return false;
  packed_table_ = pack_weight(tied_table_.detach(), form);
  return true;
}

int64_t Head::table_bytes() const {
  if (packed_table_.values.defined()) return packed_table_.bytes();
  return tied_table_.defined() ? static_cast<int64_t>(tied_table_.nbytes()) : 0;
}

bool Head::plain() const {
  return !packed_table_.values.defined() && output_.kind == OutputForm::Kind::tokens && !hidden_ &&
         (exact_ || !projection_);
}

Tensor Head::forward(const Tensor& x, const Tensor& valid) {
  if (packed_table_.values.defined()) return packed_linear(x, packed_table_, {});
  if (tied_table_.defined()) return linear_map(x, tied_table_);
  const bool per_token = output_.kind == OutputForm::Kind::tokens;
  Tensor y = per_token ? x : pool(x, valid);
  if (hidden_) y = hidden_->forward(y).relu();
  y = projection_->forward(y);
  if (output_.kind == OutputForm::Kind::values)
    return y.view({y.size(0), output_.horizon, output_.size});
  return y;
}

}  // namespace formwork
