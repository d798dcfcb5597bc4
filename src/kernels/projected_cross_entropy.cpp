#include "kernels/projected_cross_entropy.h"

#include <ATen/autocast_mode.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "core/processor.h"
#include "kernels/cuda/binding.h"
#include "kernels/matmul.h"
#include "kernels/parallel.h"
#include "kernels/rows.h"
#include "kernels/simd_levels.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Logits in memory at once (128 MB: the gradient of a large W is read and written once for them),
/// and those of other types than float32 that a thread keeps in its cache.
constexpr int64_t kLogitsAtOnce = int64_t{1} << 25, kLogitsInCache = int64_t{1} << 17;

/// One call, its tensors flattened to rows: x [R,D], target [R], all counted.
struct ProjectedRows {
  Tensor x, weight, bias, target;
  CrossEntropyRule rule;
  at::ScalarType product_type = at::kFloat;
};
struct Wanted {
  bool x = false, weight = false, bias = false;
  bool any() const { return x || weight || bias; }
};
struct LossWithGradients {
  Tensor loss;
  Tensor x, weight, bias;  // where wanted
};

/// logits [n,V] of a few rows become the gradient of their losses, which go to `losses` [n].
void differentiate_rows(const Tensor& logits, const Tensor& target, const CrossEntropyRule& rule,
                        const Tensor& losses, bool wanted) {
  const Tensor places = target.unsqueeze(1), chosen = logits.gather(1, places);
  const double rest = 1.0 - rule.smoothing;
  Tensor loss = -rest * chosen;
  if (rule.smoothing > 0.0) loss -= rule.smoothing * logits.mean(1, true);
  const Tensor most = logits.amax(1, true);
  logits.sub_(most).exp_();
  const Tensor sum = logits.sum(1, true), log_sum = most + sum.log();
  loss += log_sum;
  if (rule.z_loss > 0.0) loss += rule.z_loss * log_sum.square();
  losses.copy_(loss.squeeze(1));
  if (!wanted) return;
  logits.mul_(rule.z_loss > 0.0 ? (1.0 + 2.0 * rule.z_loss * log_sum) / sum : sum.reciprocal());
  if (rule.smoothing > 0.0) logits.sub_(rule.smoothing / static_cast<double>(logits.size(1)));
  logits.scatter_add_(1, places, at::full_like(chosen, -rest));
}

/// The same in one go over each row of float32, contiguous on the CPU.
void differentiate_floats(const Tensor& logits, const Tensor& target, const CrossEntropyRule& rule,
                          const Tensor& losses, bool wanted) {
  const int64_t classes = logits.size(1);
  float* rows = logits.data_ptr<float>();
  float* to = losses.data_ptr<float>();
  const int64_t* targets = target.const_data_ptr<int64_t>();
  const CrossEntropyRows& kernel = *cpu::simd_levels().front().cross_entropy;
  in_parallel(logits.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      to[i] =
          kernel.row(rows + i * classes, classes, targets[i], static_cast<float>(rule.smoothing),
                     static_cast<float>(rule.z_loss), wanted);
  });
}

/// The same for any number of rows, on all threads; blocks depend on the shape only.
void differentiate(const Tensor& logits, const Tensor& target, const CrossEntropyRule& rule,
                   const Tensor& losses, bool wanted) {
  if constexpr (gpu::kBuilt)
    if (gpu::serves(logits)) return gpu::cross_entropy(logits, target, rule, losses, wanted);
  if (logits.is_cpu() && logits.scalar_type() == at::kFloat && logits.is_contiguous())
    return differentiate_floats(logits, target.contiguous(), rule, losses, wanted);
  const int64_t rows = logits.size(0);
  const int64_t block = std::max<int64_t>(1, kLogitsInCache / logits.size(1));
  in_parallel((rows + block - 1) / block, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = i * block, count = std::min(block, rows - from);
      differentiate_rows(logits.narrow(0, from, count), target.narrow(0, from, count), rule,
                         losses.narrow(0, from, count), wanted);
    }
  });
}

/// In the order of the rows, whatever the threads.
Tensor sum_in_order(const Tensor& losses) {
  const Tensor wide = losses.to(at::kDouble);
  if (!wide.is_cpu()) return wide.sum().to(losses.scalar_type());  // a GPU has one order too
  double sum = 0.0;
  const double* values = wide.const_data_ptr<double>();
  for (int64_t i = 0; i < wide.numel(); ++i) sum += values[i];
  return at::scalar_tensor(sum, losses.options());
}

LossWithGradients pass(const ProjectedRows& all, const Wanted& wanted) {
  const c10::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::ScalarType type = all.product_type, wide = accumulator_type(all.x);
  const Tensor x = all.x.to(type), weight = all.weight.to(type);
  const Tensor bias = all.bias.defined() ? all.bias.to(type) : Tensor();
  const int64_t rows = x.size(0), classes = weight.size(0);
  const int64_t most = std::clamp<int64_t>(kLogitsAtOnce / classes, 1, std::max<int64_t>(rows, 1));
  LossWithGradients result;
  if (wanted.x) result.x = at::empty_like(x, x.options().dtype(wide));
  if (wanted.bias) result.bias = at::zeros({classes}, x.options().dtype(wide));
  const Tensor losses = at::empty({rows}, x.options().dtype(wide));
  for (int64_t from = 0; from < rows; from += most) {
    const int64_t count = std::min(most, rows - from);
    const Tensor x_now = x.narrow(0, from, count);
    const Tensor products = best_product(x_now, weight, bias);
    // A GPU's kernel rounds what it writes over the products.
    const Tensor slopes = gpu::serves(products) ? products : products.to(wide);
    differentiate(slopes, all.target.narrow(0, from, count), all.rule,
                  losses.narrow(0, from, count), wanted.any());
    if (!wanted.any()) continue;
    if (wanted.bias) result.bias.add_(slopes.sum({0}, false, wide));
    const Tensor narrow_slopes = slopes.to(type);
    if (wanted.x) result.x.narrow(0, from, count).copy_(best_product(narrow_slopes, weight.t()));
    if (!wanted.weight) continue;
    if (from == 0)
      result.weight = best_product(narrow_slopes.t(), x_now.t()).to(wide);
    else if (type == wide)
      result.weight.addmm_(narrow_slopes.t(), x_now);
    else
      result.weight.add_(at::mm(narrow_slopes.t(), x_now));
  }
  if (wanted.weight && !result.weight.defined())
    result.weight = at::zeros_like(weight, weight.options().dtype(wide));
  result.loss = sum_in_order(losses);
  return result;
}

/// The counted rows of a call and where they stand; `places` undefined = all.
ProjectedRows counted_rows(const Tensor& x, const Tensor& weight, const Tensor& bias,
                           const Tensor& target, const CrossEntropyRule& rule, Tensor& places) {
  ProjectedRows all{x.detach().flatten(0, -2),
                    weight.detach(),
                    bias.defined() ? bias.detach() : Tensor(),
                    target.flatten(),
                    rule,
                    x.scalar_type()};
  const at::DeviceType device = x.device().type();
  if (at::autocast::is_autocast_enabled(device) && x.scalar_type() != at::kDouble)
    all.product_type = at::autocast::get_autocast_dtype(device);
  // Without instructions for them products of bfloat16 take longer than the wider ones.
  if (x.is_cpu() && all.product_type == at::kBFloat16 && !multiplies_bfloat16())
    all.product_type = at::kFloat;
  // The GPU's kernel passes over rows without a target, and looking for them would wait for it.
  if (gpu::serves(all.x)) return all;
  const Tensor counted = all.target.ge(0);
  if (!counted.all().item<bool>()) {
    places = counted.nonzero().squeeze(1);
    all.x = all.x.index_select(0, places);
    all.target = all.target.index_select(0, places);
  }
  return all;
}

struct ProjectedCrossEntropy : torch::autograd::Function<ProjectedCrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, const Tensor& target, double smoothing,
                        double z_loss, bool gradients) {
    const Tensor shift = bias.value_or(Tensor());
    context->save_for_backward({x, weight, shift, target});
    context->saved_data["smoothing"] = smoothing;
    context->saved_data["z_loss"] = z_loss;
    const Wanted wanted{gradients && x.requires_grad(), gradients && weight.requires_grad(),
                        gradients && shift.defined() && shift.requires_grad()};
    Tensor places;
    const LossWithGradients result =
        pass(counted_rows(x, weight, shift, target, {smoothing, z_loss}, places), wanted);
    keep(context, result, places, x);
    return result.loss;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const CrossEntropyRule rule{context->saved_data["smoothing"].toDouble(),
                                context->saved_data["z_loss"].toDouble()};
    if (at::GradMode::is_enabled()) return differentiable_gradients(saved, gradients[0], rule);
    if (context->saved_data.find("kept") == context->saved_data.end()) {
      // A graph that was retained: the first pass has given its gradients away.
      Tensor places;
      const Wanted wanted{saved[0].requires_grad(), saved[1].requires_grad(),
                          saved[2].defined() && saved[2].requires_grad()};
      keep(context,
           pass(counted_rows(saved[0], saved[1], saved[2], saved[3], rule, places), wanted), places,
           saved[0]);
    }
    variable_list result(7);
    const char* const names[] = {"x", "weight", "bias"};
    for (size_t i = 0; i < 3; ++i) {
      const auto found = context->saved_data.find(names[i]);
      if (found == context->saved_data.end()) continue;
      // Nobody else holds it: no copy of the gradient of a large W is needed.
      result[i] = found->second.toTensor().mul_(gradients[0]).to(saved[i].scalar_type());
      context->saved_data.erase(found);
    }
    context->saved_data.erase("kept");
    return result;
  }

 private:
  static void keep(AutogradContext* context, const LossWithGradients& result, const Tensor& places,
                   const Tensor& x) {
    context->saved_data["kept"] = true;
    if (result.weight.defined()) context->saved_data["weight"] = result.weight;
    if (result.bias.defined()) context->saved_data["bias"] = result.bias;
    if (!result.x.defined()) return;
    Tensor all = result.x;
    if (places.defined())
      all = at::zeros({x.numel() / x.size(-1), x.size(-1)}, all.options())
                .index_copy_(0, places, all);
    context->saved_data["x"] = all.view(x.sizes());
  }

  /// By plain operators, for those that will be differentiated again.
  static variable_list differentiable_gradients(const variable_list& saved, const Tensor& gradient,
                                                const CrossEntropyRule& rule) {
    // Aliases: x may itself have been made of the weight, where the two are tied.
    variable_list inputs, asked;
    for (size_t i = 0; i < 3; ++i) {
      inputs.push_back(saved[i].defined() ? at::alias(saved[i]) : Tensor());
      if (inputs[i].defined() && inputs[i].requires_grad()) asked.push_back(inputs[i]);
    }
    const Tensor loss =
        projected_cross_entropy_reference(inputs[0], inputs[1], inputs[2], saved[3], rule);
    const variable_list found = torch::autograd::grad({loss}, asked, {gradient}, true, true);
    variable_list result(7);
    for (size_t i = 0, next = 0; i < 3; ++i)
      if (saved[i].defined() && saved[i].requires_grad()) result[i] = found[next++];
    return result;
  }
};

void check_arguments(const Tensor& x, const Tensor& weight, const Tensor& bias,
                     const Tensor& target, const CrossEntropyRule& rule) {
  constexpr const char* kWhere = "projected_cross_entropy";
  check(weight.dim() == 2 && x.dim() >= 2 && x.size(-1) == weight.size(1), kWhere, "found x ",
        x.sizes(), " and weight ", weight.sizes(), "; valid: [...,D] and [V,D]");
  check(!bias.defined() || bias.sizes() == at::IntArrayRef({weight.size(0)}), kWhere,
        "found a bias that is not [", weight.size(0), "]; valid: one number a class, or none");
  check(target.scalar_type() == at::kLong && target.sizes() == x.sizes().slice(0, x.dim() - 1),
        kWhere, "found targets ", target.sizes(), " of type ", target.scalar_type(), " for x ",
        x.sizes(), "; valid: int64, one a row of x");
  // On a GPU looking at the targets would wait for it.
  check(!target.is_cpu() || target.numel() == 0 || target.max().item<int64_t>() < weight.size(0),
        kWhere, "found a target above the last class; valid: below ", weight.size(0),
        ", negative = not counted");
  check(rule.smoothing >= 0.0 && rule.smoothing <= 1.0 && rule.z_loss >= 0.0, kWhere,
        "found smoothing ", rule.smoothing, " and z_loss ", rule.z_loss,
        "; valid: 0 to 1, and at least 0");
}

}  // namespace

Tensor projected_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& bias,
                               const Tensor& target, const CrossEntropyRule& rule) {
  check_arguments(x, weight, bias, target, rule);
  const std::optional<Tensor> shift = bias.defined() ? std::optional(bias) : std::nullopt;
  return ProjectedCrossEntropy::apply(x, weight, shift, target, rule.smoothing, rule.z_loss,
                                      c10::GradMode::is_enabled());
}

Tensor projected_cross_entropy_reference(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                         const Tensor& target, const CrossEntropyRule& rule) {
  check_arguments(x, weight, bias, target, rule);
  Tensor logits = at::linear(x, weight, bias).flatten(0, -2);
  logits = logits.to(accumulator_type(logits));
  const Tensor counted = target.flatten().ge(0);
  const Tensor chosen = logits.gather(1, target.flatten().clamp_min(0).unsqueeze(1)).squeeze(1);
  const Tensor log_sum = logits.logsumexp(1);
  const Tensor losses = log_sum - (1.0 - rule.smoothing) * chosen -
                        rule.smoothing * logits.mean(1) + rule.z_loss * log_sum.square();
  return losses.masked_fill(counted.logical_not(), 0).sum();
}

}  // namespace formwork
