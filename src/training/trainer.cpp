#include "training/trainer.h"

#include <c10/core/GradMode.h>

#include <chrono>
#include <cmath>

#include "kernels/row_sums.h"
#include "training/diagnosis.h"
#include "training/evaluation.h"
#include "training/flops.h"
#include "training/precision.h"

namespace formwork {
namespace {

double seconds_now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

/// Logits from which on it pays not to have them all in memory (64 MB in float32).
constexpr int64_t kMostLogits = int64_t{1} << 24;

at::ScalarType parameter_type(const std::string& precision) {
  return precision == "float64" ? at::kDouble : at::kFloat;
}

/// Where the recipe trains; refuses what is not there.
at::Device device_of(const TrainOptions& train, const Processes& processes) {
  if (train.device == "cpu") return at::kCPU;
  constexpr const char* kWhere = "train.device";
  check(at::globalContext().hasCUDA(), kWhere, "found '", train.device,
        "', but this libtorch was built without CUDA or finds no GPU here; valid: cpu");
  check(processes.size() == 1, kWhere, "found '", train.device, "' and ", processes.size(),
        " processes, which sum on the CPU only; valid: cpu, or one process");
  check(train.probe.kinds.empty(), "train.probe.kinds", "found probes, which run on the CPU, and ",
        kWhere, " = '", train.device, "'; valid: none, and formwork inspect on the run");
  return {at::kCUDA, 0};
}

}  // namespace

Trainer::Trainer(Recipe& recipe, Processes& processes, const std::map<std::string, Tensor>* start)
    : recipe_(recipe),
      processes_(processes),
      device_(device_of(recipe.train, processes)),
      task_(recipe.make_task()) {
  model_ = std::make_shared<Model>(recipe.model, task_->form(),
                                   static_cast<uint64_t>(recipe.train.seed));
  model_->to(parameter_type(recipe.train.precision));
  model_->to(device_);
  if (start) load_model(*model_, *start, "train.start_from: " + recipe.train.start_from);
  model_->checkpoint_activations(recipe.train.activation_checkpointing == "block");
  parameters_ = model_->parameters();
  ConstraintSite constraint_site;
  for (const Choice<Constraint>& choice : recipe.constraints) {
    constraints_.push_back(choice.make(constraint_site));
    constraints_.back()->prepare(parameters_);
  }
  OptimizerSite optimizer_site;
  optimizer_site.parameters = parameters_;
  optimizer_ = recipe.optimizer.make(optimizer_site);
  ScheduleSite schedule_site;
  schedule_ = recipe.schedule.make(schedule_site);
  if (captures())
    graph_ = std::make_unique<StepGraph>(
        parameters_,
        [this](const Batch& batch, const Tensor& numbers) { return batch_loss(batch, numbers); });
}

Trainer::~Trainer() = default;

double Trainer::fraction() const {
  const BudgetOptions& budget = recipe_.train.budget;
  double used = 0.0;
  if (budget.steps)
    used = std::max(used, static_cast<double>(progress_.step) / static_cast<double>(*budget.steps));
  if (budget.tokens) used = std::max(used, progress_.tokens / *budget.tokens);
  if (budget.seconds) used = std::max(used, progress_.seconds / *budget.seconds);
  if (budget.flops) used = std::max(used, progress_.flops / *budget.flops);
  return used;
}

bool Trainer::finished() const {
  return fraction() >= 1.0;
}

int64_t Trainer::planned_steps() const {
  const double used = fraction();
  const BudgetOptions& budget = recipe_.train.budget;
  const bool only_steps = budget.steps && !budget.tokens && !budget.seconds && !budget.flops;
  if (only_steps) return *budget.steps;
  if (used <= 0.0) return budget.steps.value_or(0);
  return std::max<int64_t>(progress_.step,
                           std::llround(static_cast<double>(progress_.step) / used));
}

int64_t Trainer::first_item(int64_t micro_batch) const {
  // A step covers batch · accumulate · processes consecutive items; each process takes its share
  // of them, so that 2 processes see what one with twice the batch sees.
  const TrainOptions& train = recipe_.train;
  const int64_t step = micro_batch / train.accumulate;
  const int64_t part = processes_.rank() * train.accumulate + micro_batch % train.accumulate;
  return (step * train.accumulate * processes_.size() + part) * train.batch;
}

void Trainer::start_data() {
  data_ = std::make_unique<Prefetcher>(
      *task_, [this](int64_t k) { return first_item(k); }, recipe_.train.batch,
      progress_.step * recipe_.train.accumulate, recipe_.train.prefetch);
}

ModelOutput Trainer::run_model(const Batch& batch) {
  const PrecisionGuard precision(recipe_.train.precision, device_.type());
  ModelInput input = batch.input;
  if (task_->plain_token_loss()) input.most_logits = kMostLogits;
  return model_->forward(input);
}

bool Trainer::captures() const {
  const TrainOptions& train = recipe_.train;
  bool steady = true;
  model_->visit(
      [&](const std::string&, const Module& module) { steady = steady && module.steady(); });
  return device_.is_cuda() && train.cuda_graph && train.activation_checkpointing == "none" &&
         steady;
}

Tensor Trainer::batch_loss(const Batch& batch, const Tensor& numbers) {
  const CrossEntropyRule rule{recipe_.train.label_smoothing, recipe_.train.z_loss};
  const ModelOutput out = run_model(batch);
  Tensor total = task_->loss_of(out, batch, rule).sum / numbers[0];
  for (const Tensor& extra : out.losses) total = total + extra * numbers[1];
  return total;
}

double Trainer::step_loss(const std::vector<Batch>& batches, double count) {
  const RandomStream dropout = RandomStream(static_cast<uint64_t>(recipe_.train.seed))
                                   .child("dropout")
                                   .child(static_cast<uint64_t>(progress_.step));
  double sum = 0.0;
  for (size_t i = 0; i < batches.size(); ++i) {
    // Dropout draws from PyTorch's default generator: set anew for every pass, its numbers are a
    // function of seed, step and process, and a resumed run needs no generator state.
    const size_t part = static_cast<size_t>(processes_.rank()) * batches.size() + i;
    at::manual_seed(dropout.child(part).key());
    // As a tensor: a graph of the pass cannot hold what the next one changes.
    const Tensor numbers =
        at::tensor({count, *batches[i].counted / count}, at::dtype(model_->type())).to(device_);
    const Tensor total =
        graph_ ? graph_->run(batches[i], numbers) : batch_loss(batches[i], numbers);
    const double value = total.item<double>();
    if (!std::isfinite(value)) explain_bad_loss(value, batches);
    if (!graph_) total.backward();
    sum += value;
  }
  // Rows that several tokens, or several passes, have touched become one.
  for (const Parameter& parameter : parameters_)
    if (parameter.tensor.grad().defined() && parameter.tensor.grad().is_sparse())
      parameter.tensor.mutable_grad() = coalesced(parameter.tensor.grad());
  return sum;
}

void Trainer::reduce_gradients() {
  std::vector<Tensor> gradients;
  for (const Parameter& parameter : parameters_) {
    // A parameter that this process's batch did not touch still takes part in the sum.
    if (!parameter.tensor.grad().defined())
      parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor);
    // Each process has touched other rows.
    if (parameter.tensor.grad().is_sparse())
      parameter.tensor.mutable_grad() = parameter.tensor.grad().to_dense();
    gradients.push_back(parameter.tensor.grad());
  }
  processes_.all_reduce_sum(gradients);
}

StepResult Trainer::step() {
  const double start = seconds_now();
  if (!data_) start_data();
  std::vector<Batch> batches;
  double count = 0.0;
  double tokens = 0.0;
  const Elapsed elapsed{progress_.step, fraction()};
  model_->visit([&](const std::string&, Module& module) { module.before_step(elapsed); });
  for (int64_t i = 0; i < recipe_.train.accumulate; ++i) {
    batches.push_back(data_->next());
    batches.back().counted = task_->target_count(batches.back());
    match_model(batches.back(), *model_);
    count += *batches.back().counted;
    tokens += static_cast<double>(batches.back().tokens);
  }
  count = processes_.sum(count);
  if (!(count > 0.0))
    fail("train", "no target to learn from in the batch of step ", progress_.step + 1);

  // Shapes repeat from step to step, so counting one step is enough; counting costs time.
  std::unique_ptr<FlopCounter> counter;
  if (flops_per_step_ == 0.0) counter = std::make_unique<FlopCounter>();
  StepResult result;
  result.loss = processes_.sum(step_loss(batches, count));
  if (counter) flops_per_step_ = counter->count() * static_cast<double>(processes_.size());
  counter.reset();
  if (processes_.size() > 1) reduce_gradients();

  for (const auto& constraint : constraints_) constraint->before_step(parameters_);
  const double factor = schedule_->factor(progress_.step, planned_steps());
  optimizer_->step(factor);
  result.rate = optimizer_->lr() * factor;
  for (const auto& constraint : constraints_) constraint->after_step(parameters_, result.rate);
  optimizer_->zero_grad();
  // Read at last: on a GPU this waits for the step.
  for (const auto& constraint : constraints_)
    result.gradient_norm = std::max(result.gradient_norm, constraint->last_norm());

  progress_.step += 1;
  progress_.tokens += tokens * static_cast<double>(processes_.size());
  progress_.flops += flops_per_step_;
  progress_.seconds += processes_.from_first(seconds_now() - start);
  return result;
}

std::map<std::string, double> Trainer::evaluate() {
  EvaluationRequest request;
  request.items = recipe_.train.evaluate.items;
  request.batch = recipe_.train.evaluate.batch;
  request.precision = recipe_.train.precision;
  model_->eval();
  optimizer_->eval();
  std::map<std::string, double> result = formwork::evaluate(*model_, *task_, request, processes_);
  optimizer_->train();
  model_->train();
  if (graph_) graph_->forget();
  return result;
}

std::map<std::string, Tensor> Trainer::model_tensors() {
  return model_->named_tensors();
}
std::map<std::string, Tensor> Trainer::optimizer_tensors() {
  return optimizer_->state();
}

void load_model(Model& model, const std::map<std::string, Tensor>& saved,
                const std::string& where) {
  const c10::NoGradGuard no_grad;
  const std::map<std::string, Tensor> own = model.named_tensors();
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    check(found != saved.end(), where, "has no tensor '", name,
          "', which the recipe's model needs");
    check(found->second.sizes() == tensor.sizes(), where, "tensor '", name, "' has shape ",
          found->second.sizes(), ", but the recipe's model needs ", tensor.sizes());
  }
  for (const auto& [name, tensor] : saved)
    check(own.count(name) > 0, where, "has a tensor '", name,
          "' that the recipe's model does not know");
  for (const auto& [name, tensor] : own) {
    Tensor target = tensor;
    target.copy_(saved.at(name));
  }
}

void Trainer::restore(const std::map<std::string, Tensor>& model,
                      const std::map<std::string, Tensor>& optimizer, const Progress& progress) {
  load_model(*model_, model, "checkpoint");
  optimizer_->eval();
  optimizer_->load_state(optimizer);
  optimizer_->train();
  progress_ = progress;
  if (progress_.step > 0) flops_per_step_ = progress_.flops / static_cast<double>(progress_.step);
  data_.reset();
}

void Trainer::explain_bad_loss(double loss, const std::vector<Batch>& batches) {
  const std::string culprit = first_bad_place(*model_, batches.front().input);
  fail("train", "the loss is ", loss, " at step ", progress_.step + 1, "; ", culprit,
       "; try a lower optimizer.lr, more warm-up (schedule.warmup) or train.precision = "
       "\"float32\"");
}

void Trainer::check_memory() {
  if (!device_.is_cpu()) return;
  Batch batch = task_->training_batch(0, 1);
  match_model(batch, *model_);
  // One item as in a whole batch, whose logits may be too many to be formed.
  if (task_->plain_token_loss()) batch.input.most_logits = kMostLogits / recipe_.train.batch;
  const double item = bytes_of_pass(*model_, *task_, batch, recipe_.train.precision);
  check_batch_fits(item, recipe_.train.batch, recipe_.train.accumulate, *model_);
}

}  // namespace formwork
