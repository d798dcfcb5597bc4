#include "cli/operator_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/channels.h"
#include "kernels/gated_rms.h"
#include "kernels/grouped.h"
#include "kernels/layer_norm.h"
#include "kernels/linear_map.h"
#include "kernels/matmul.h"
#include "kernels/matrix_state.h"
#include "kernels/mixed_norm.h"
#include "kernels/packed_linear.h"
#include "kernels/projected_cross_entropy.h"
#include "kernels/rms_norm.h"
#include "kernels/rotate.h"
#include "kernels/scaled_tanh.h"
#include "methods/channel/channel.h"
#include "methods/constraint/constraint.h"
#include "methods/optimizer/optimizer.h"

namespace formwork {
namespace {

using Pass = std::function<Tensor()>;
using Tensors = std::vector<Tensor>;

constexpr double kEps = 1e-5;
constexpr int64_t kClasses = 8192, kChunk = 64;

/// Collects rows; tensors are drawn by the row's name and their place in it.
class OperatorList {
 public:
  explicit OperatorList(const OperatorSizes& sizes) : tokens_(sizes.tokens), width_(sizes.width) {}

  void add_products();
  void add_linear_maps();
  void add_norms();
  void add_attention();
  void add_channels();
  void add_training();
  std::vector<OperatorRow> rows;

 private:
  void add(std::string name, Tensors tensors, Pass ours, std::vector<Pass> peers = {},
           double bytes = 0.0) {
    rows.push_back({std::move(name), std::move(tensors), std::move(ours), std::move(peers), bytes});
  }
  /// Normal numbers, the next of the stream.
  Tensor draw(at::IntArrayRef shape) {
    return normal_tensor(shape, 1.0, random_.child(static_cast<uint64_t>(++drawn_)));
  }
  /// The same, wanting a gradient.
  Tensor trained(at::IntArrayRef shape) { return draw(shape).requires_grad_(); }
  void add_product(const std::string& name, const Tensor& a, const Tensor& b);
  void add_linear(int64_t in, int64_t out);
  void add_attention(int64_t length, bool causal);
  void add_channel(const std::string& kind);
  Tensors parameters_with_gradients();

  int64_t tokens_, width_, drawn_ = 0;
  RandomStream random_{1};
};

/// Beside every library: what is chosen should be the fastest.
void OperatorList::add_product(const std::string& name, const Tensor& a, const Tensor& b) {
  std::vector<Pass> libraries;
  for (const MatmulLibrary library : matmul_libraries())
    libraries.push_back([=] { return product_by(library, a, b); });
  add(
      name, {a, b}, [=] { return product_by(faster_library(a, b), a, b); }, libraries);
}

void OperatorList::add_products() {
  for (const auto& [in, out] : {std::pair(width_, 4 * width_), std::pair(4 * width_, width_)}) {
    const Tensor x = draw({tokens_, in}), w = draw({out, in}), slope = draw({tokens_, out});
    add_product("product y", x, w);
    add_product("product dx", slope, w.t());
    add_product("product dW", slope.t(), x.t());
  }
}

void OperatorList::add_linear(int64_t in, int64_t out) {
  const Tensor x = trained({tokens_, in}), w = trained({out, in}), b = trained({out});
  add("linear", {x, w, b}, [=] { return linear_map(x, w, b); },
      {[=] { return at::linear(x, w, b); }});
}

void OperatorList::add_linear_maps() {
  add_linear(width_, width_);
  add_linear(width_, 4 * width_);
  add_linear(4 * width_, width_);
  const Tensor w = draw({4 * width_, width_}), one = draw({1, width_});
  add("linear, one row", {one, w}, [=] { return linear_map(one, w); },
      {[=] { return at::linear(one, w); }});
  const Tensor x = trained({tokens_, width_}), up = trained({4 * width_, width_}),
               bias = trained({4 * width_}), residual = trained({tokens_, 4 * width_}),
               z = trained({tokens_, 4 * width_});
  add("linear, bias, gelu, add", {x, up, bias, residual},
      [=] {
        return linear_map(x, up, {bias, Activation::gelu, residual});
      },
      {[=] { return at::gelu(at::linear(x, up, bias)) + residual; }});
  add("bias, gelu", {z, bias},
      [=] {
        return activate(z, Activation::gelu, {bias, {}, {}});
      },
      {[=] { return at::gelu(z + bias); }});
  add("silu times factor", {z, residual},
      [=] {
        return activate(z, Activation::silu, {{}, residual, {}});
      },
      {[=] { return at::silu(z) * residual; }});
  for (const int64_t rows_of_x : {int64_t{1}, std::max<int64_t>(1, tokens_ / 32)})
    for (const PackedForm form : {PackedForm::int8, PackedForm::bfloat16}) {
      const Tensor few = draw({rows_of_x, width_});
      const PackedWeight packed = pack_weight(w, form);
      add(form == PackedForm::int8 ? "packed int8" : "packed bfloat16", {few, packed.values},
          [=] { return packed_linear(few, packed, {}); }, {[=] { return at::linear(few, w); }});
    }
}

void OperatorList::add_norms() {
  const std::vector<int64_t> by{width_};
  const Tensor x = trained({tokens_, width_}), r = trained({tokens_, width_});
  const Tensor w = trained(by), b = trained(by), unit = draw(by), shift = draw(by);
  const Tensor plain = draw({tokens_, width_}), g = draw({tokens_, width_});
  add("rms_norm", {x, w}, [=] { return rms_norm(x, w, kEps); },
      {[=] { return at::rms_norm(x, by, w, kEps); }});
  add("crms_norm", {x, w}, [=] { return crms_norm(x, w, kEps); });
  add("add_rms_norm", {x, r, w}, [=] { return add_rms_norm(x, r, w, kEps).y; },
      {[=] { return at::rms_norm(x + r, by, w, kEps); }});
  add("add_layer_norm", {x, r, w, b}, [=] { return add_layer_norm(x, r, w, b, kEps).y; },
      {[=] { return at::layer_norm(x + r, by, w, b, kEps); }});
  add("add_crms_norm", {x, r, w}, [=] { return add_crms_norm(x, r, w, kEps).y; });
  add("gated_rms", {x, w, b}, [=] { return gated_rms(x, w, b, kEps); },
      {[=] { return gated_rms_reference(x, w, b, kEps); }});
  add("channel_moments", {plain}, [=] { return channel_moments(plain, {}, {}).product; },
      {[=] { return std::get<0>(at::var_mean(plain, 0)); }});
  add("channel_scale", {plain, unit, shift}, [=] { return channel_scale(plain, unit, shift); },
      {[=] { return at::addcmul(shift, plain, unit); }});
  add("channel_combine", {plain, g, unit, shift},
      [=] { return channel_combine(g, unit, plain, shift, unit); },
      {[=] { return channel_combine_reference(g, unit, plain, shift, unit); }});
  add("grouped_sums", {plain}, [=] {
    return cpu::grouped_sums({}, plain, {}, {}, {1, kEps}).product;
  });
  add("mixed_norm", {plain}, [=] {
    return cpu::mixed_norm_forward(plain, {0.5, kEps, true, unit, unit, shift}).y;
  });
  add("scaled_tanh", {plain}, [=] { return cpu::scaled_tanh_forward(plain, 0.5, unit, shift).y; },
      {[=] { return at::addcmul(shift, at::tanh(plain * 0.5), unit); }});
}

/// Heads inside rows, as projections leave them.
void OperatorList::add_attention(int64_t length, bool causal) {
  const int64_t heads = std::max<int64_t>(1, width_ / 256), head_width = std::min(width_, kChunk);
  const std::vector<int64_t> shape{std::max<int64_t>(1, tokens_ / length), length, heads,
                                   head_width};
  const auto tensor = [&] { return draw(shape).transpose(1, 2).requires_grad_(); };
  const Tensor q = tensor(), k = tensor(), v = tensor();
  const AttentionRule rule{causal, 1.0 / std::sqrt(static_cast<double>(head_width)), {}};
  add(causal ? "attention causal" : "attention", {q, k, v},
      [=] { return attention(q, k, v, rule); },
      {[=] { return at::scaled_dot_product_attention(q, k, v, {}, 0.0, causal, rule.scale); }});
}

void OperatorList::add_attention() {
  for (const bool causal : {false, true})
    for (const int64_t length : {tokens_ / 16, tokens_ / 2, 2 * tokens_})
      add_attention(std::max<int64_t>(1, length), causal);
  const std::vector<int64_t> shape{1, std::max<int64_t>(1, width_ / kChunk), tokens_,
                                   std::min(width_, kChunk)};
  const Tensor q = trained(shape), k = trained(shape), v = trained(shape);
  add("matrix_state_scan", {q, k, v},
      [=] {
        return matrix_state_scan({q, k, v}, kChunk);
      },
      {[=] { return at::matmul(at::matmul(q, k.transpose(-2, -1)).tril(), v); }});
  const int64_t half = shape.back() / 2;
  const Tensor angle = draw({tokens_, half}), cosine = angle.cos(), sine = angle.sin();
  for (const auto& [name, pairing] : {std::pair("rotate half", Pairing::half),
                                      std::pair("rotate interleaved", Pairing::interleaved)})
    add(name, {q, cosine, sine}, [=, how = pairing] { return rotate_pairs(q, cosine, sine, how); },
        {[=, how = pairing] { return rotate_pairs_reference(q, cosine, sine, how); }});
}

/// A whole channel method beside the same maps in plain PyTorch.
void OperatorList::add_channel(const std::string& kind) {
  Site site = plain_site(width_);
  const std::shared_ptr<Channel> channel = Choice<Channel>(kind).make(site);
  std::map<std::string, Tensor> by_name = channel->named_tensors();
  const Tensor x = trained({1, tokens_, width_});
  Tensors tensors{x};
  for (const Parameter& parameter : channel->parameters()) tensors.push_back(parameter.tensor);
  const auto map = [by_name](const char* name, const Tensor& v) {
    const auto bias = by_name.find(std::string(name) + ".bias");
    return at::linear(v, by_name.at(std::string(name) + ".weight"),
                      bias == by_name.end() ? std::nullopt : std::optional(bias->second));
  };
  const bool gated = by_name.count("gate.weight") > 0;
  add("channel " + kind, tensors,
      [=] {
        Stream stream;
        return channel->forward(x, stream);
      },
      {[=] {
        return map("down",
                   gated ? at::silu(map("gate", x)) * map("up", x) : at::gelu(map("up", x)));
      }});
}

void OperatorList::add_channels() {
  add_channel("mlp");
  add_channel("glu");
}

/// As many matrices and vectors as a small model has.
Tensors OperatorList::parameters_with_gradients() {
  Tensors all;
  for (int layer = 0; layer < 8; ++layer)
    for (const int64_t rows_of_it : {width_, width_, int64_t{1}}) {
      all.push_back(trained({rows_of_it, width_}));
      all.back().mutable_grad() = draw(all.back().sizes());
    }
  return all;
}

void OperatorList::add_training() {
  const Tensor x = trained({std::max<int64_t>(1, tokens_ / 4), width_});
  const Tensor w = trained({kClasses, width_});
  const Tensor target = draw({x.size(0)}).abs().mul(kClasses / 8).to(at::kLong) % kClasses;
  add("projected_cross_entropy", {x, w}, [=] { return projected_cross_entropy(x, w, {}, target); },
      {[=] { return at::cross_entropy_loss(at::linear(x, w), target, {}, at::Reduction::Sum); }});

  const Tensors ours = parameters_with_gradients(), theirs = parameters_with_gradients();
  OptimizerSite site;
  int64_t numbers = 0;
  for (const Tensor& tensor : ours) {
    site.parameters.push_back({join_text("p", site.parameters.size()), tensor, Role::other});
    numbers += tensor.numel();
  }
  const auto bytes = [&](int64_t times) {
    return static_cast<double>(times * numbers) * sizeof(float);
  };
  const std::shared_ptr<Optimizer> adamw = Choice<Optimizer>("adamw").make(site);
  Tensors gradients, first, second, steps;
  for (const Tensor& tensor : theirs) {
    gradients.push_back(tensor.grad());
    first.push_back(at::zeros_like(tensor));
    second.push_back(at::zeros_like(tensor));
    steps.push_back(at::ones({}));
  }
  const auto fused = [=] {
    for (const Tensor& step : steps) step.add_(1.0);
    at::_fused_adamw_(theirs, gradients, first, second, {}, steps, 1e-3, 0.9, 0.999, 0.01, 1e-8,
                      false, false);
    return Tensor();
  };
  add(
      "adamw step", {},
      [=] {
        adamw->step(1.0);
        return Tensor();
      },
      {fused}, bytes(7));
  // Within the limit, as most steps of a training are: then ours reads and PyTorch's also writes.
  Choice<Constraint> choice("gradient_clipping");
  choice.set({{"max_norm", Value(1e9)}});
  ConstraintSite nowhere;
  const std::shared_ptr<Constraint> clipping = choice.make(nowhere);
  add(
      "gradient_clipping", {},
      [=] {
        clipping->before_step(adamw->parameters());
        return Tensor();
      },
      {[=] {
        const Tensor norm = at::stack(at::_foreach_norm(gradients)).norm();
        at::_foreach_mul_(gradients, (1e9 / (norm + 1e-6)).clamp_max(1.0));
        return Tensor();
      }},
      bytes(1));
}

}  // namespace

std::vector<OperatorRow> operator_rows(const OperatorSizes& sizes) {
  OperatorList list(sizes);
  list.add_products();
  list.add_linear_maps();
  list.add_norms();
  list.add_attention();
  list.add_channels();
  list.add_training();
  return std::move(list.rows);
}

}  // namespace formwork
