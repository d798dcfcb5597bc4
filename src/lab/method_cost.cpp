#include "lab/method_cost.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

#include "lab/method_fit.h"
#include "methods/optimizer/optimizer.h"
#include "model/model.h"

namespace formwork {
namespace {

constexpr int64_t kBatch = 4;
constexpr int64_t kLeastTimings = 3;
constexpr double kMostSeconds = 0.1;  // a size, after the least rounds

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What is timed, once; made for one size.
using Work = std::function<void()>;

/// Forward and backward of a small model, in the first use that the method works in.
std::optional<Work> model_work(const std::string& axis, const std::string& kind, ModelUse use,
                               int64_t length) {
  use.form.input.length = length;
  if (use.form.form == "encoder_decoder" || use.form.input.kind != InputForm::Kind::tokens)
    return std::nullopt;
  const auto model =
      std::make_shared<Model>(small_model({{axis, kind}}, use.form), use.form, uint64_t{1});
  model->train();
  const Tensor tokens = at::arange(kBatch * length, at::kLong)
                            .remainder(use.form.input.vocabulary)
                            .view({kBatch, -1});
  return [model, tokens] {
    for (const Parameter& p : model->parameters()) p.tensor.mutable_grad() = Tensor();
    ModelInput input;
    input.input = tokens;
    ModelOutput output = model->forward(input);
    Tensor loss = output.y.square().mean();
    for (const Tensor& more : output.losses) loss = loss + more;
    loss.backward();
  };
}

/// One step on four square matrices.
Work optimizer_work(const std::string& kind, int64_t width) {
  OptimizerSite site;
  for (int64_t i = 0; i < 4; ++i) {
    const RandomStream random = RandomStream(1).child(static_cast<uint64_t>(i));
    Parameter parameter;
    parameter.name = join_text("layers.", i, ".weight");
    parameter.tensor = normal_tensor({width, width}, 0.02, random).requires_grad_();
    parameter.tensor.mutable_grad() = normal_tensor({width, width}, 1.0, random.child("gradient"));
    parameter.role = Role::up;
    site.parameters.push_back(parameter);
  }
  const std::shared_ptr<Optimizer> optimizer = Choice<Optimizer>(kind).make(site);
  optimizer->train();
  return [optimizer] { optimizer->step(1.0); };
}

/// Times both in turns and adds the least of each.
void time_both(const Work& method, const Work& standard, MethodCost& cost) {
  double least = std::numeric_limits<double>::infinity(), least_standard = least;
  const auto one = [](const Work& work, double& best) {
    const double start = seconds();
    work();
    best = std::min(best, 1e3 * (seconds() - start));
  };
  method();
  standard();  // the first time pays for memory
  const double start = seconds();
  for (int64_t round = 0; round < kLeastTimings || seconds() - start < kMostSeconds; ++round) {
    one(method, least);
    one(standard, least_standard);
    if (round >= 20) break;
  }
  cost.method.push_back(least);
  cost.standard.push_back(least_standard);
}

}  // namespace

std::optional<MethodCost> measure_cost(const MethodInfo& method) {
  MethodCost cost;
  const bool is_optimizer = method.axis == "optimizer";
  if (!is_optimizer && !is_model_axis(method.axis)) return std::nullopt;
  const std::vector<const ModelUse*> uses =
      is_optimizer ? std::vector<const ModelUse*>{} : uses_of(method);
  if (!is_optimizer && uses.empty()) return std::nullopt;
  cost.baseline = default_of(method.axis);
  cost.what = is_optimizer ? "a step of the optimizer"
                           : "forward and backward of a small model (2 layers, width 64, batch 4)";
  cost.size = is_optimizer ? "channels (four square matrices)" : "tokens";
  for (const int64_t size : {32, 64, 128, 256}) {
    if (is_optimizer) {
      time_both(optimizer_work(method.name, size), optimizer_work(cost.baseline, size), cost);
    } else {
      const auto mine = model_work(method.axis, method.name, *uses.front(), size);
      const auto standard = model_work(method.axis, cost.baseline, *uses.front(), size);
      if (!mine || !standard) return std::nullopt;
      time_both(*mine, *standard, cost);
    }
    cost.sizes.push_back(size);
  }
  return cost;
}

}  // namespace formwork
