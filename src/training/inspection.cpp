#include "training/inspection.h"

#include <ATen/Context.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "training/evaluation.h"
#include "training/precision.h"

namespace formwork {
namespace {

/// Puts back what a pass may move: mode, gradients, running statistics, the random generator.
class Untouched {
 public:
  explicit Untouched(Model& model)
      : model_(model),
        training_(model.training()),
        generator_(at::globalContext().defaultGenerator(model.device())),
        parameters_(model.parameters()) {
    {
      const std::lock_guard<std::mutex> lock(generator_.mutex());
      random_ = generator_.get_state();
    }
    for (Parameter& p : parameters_) {
      gradients_.push_back(p.tensor.grad());
      p.tensor.mutable_grad() = Tensor();
    }
    for (const auto& [name, tensor] : model.buffers())
      buffers_.emplace_back(tensor, tensor.clone());
    if (training_) model.eval();
  }
  ~Untouched() {
    if (training_) model_.train();
    for (size_t i = 0; i < parameters_.size(); ++i)
      parameters_[i].tensor.mutable_grad() = gradients_[i];
    const c10::NoGradGuard no_grad;
    for (auto& [tensor, before] : buffers_) tensor.copy_(before);
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    generator_.set_state(random_);
  }
  Untouched(const Untouched&) = delete;
  Untouched& operator=(const Untouched&) = delete;

  std::vector<Parameter>& parameters() { return parameters_; }

 private:
  Model& model_;
  bool training_;
  at::Generator generator_;
  Tensor random_;
  std::vector<Parameter> parameters_;
  std::vector<Tensor> gradients_;
  std::vector<std::pair<Tensor, Tensor>> buffers_;
};

/// Gives each probe the points that it wants.
class Spread final : public SelectiveObserver {
 public:
  explicit Spread(const std::vector<std::shared_ptr<Probe>>& probes) : probes_(probes) {}
  void see(const std::string& point, const Tensor& tensor) override {
    const c10::NoGradGuard no_grad;
    for (const auto& probe : probes_)
      if (probe->wants(point)) probe->see(point, tensor.detach());
  }
  bool wants(const std::string& point) const override {
    return std::any_of(probes_.begin(), probes_.end(),
                       [&](const auto& probe) { return probe->wants(point); });
  }

 private:
  const std::vector<std::shared_ptr<Probe>>& probes_;
};

/// Lets a probe change the vectors after the stem, and passes the points on.
class Editor final : public SelectiveObserver {
 public:
  Editor(const Subject::Run& run, std::string stack) : run_(run), stack_(std::move(stack)) {}
  void see(const std::string& point, const Tensor& tensor) override {
    if (run_.edit && point == stack_ + "stem.tokens") run_.edit(tensor);
    if (run_.watcher) run_.watcher->see(point, tensor);
  }
  bool wants(const std::string& point) const override { return wanted(run_.watcher, point); }

 private:
  const Subject::Run& run_;
  std::string stack_;
};

class ModelSubject final : public Subject {
 public:
  ModelSubject(Model& model, const Batch& batch) : model_(model), batch_(batch) {
    // The mask of the vectors: the stem's may differ from the input's.
    struct Mask final : SelectiveObserver {
      Tensor valid;
      void see(const std::string& point, const Tensor& tensor) override {
        if (!point.starts_with("encoder.") && point.ends_with("stem.valid")) valid = tensor;
      }
      bool wants(const std::string&) const override { return false; }
    } mask;
    const c10::NoGradGuard no_grad;
    run({.input = {}, .edit = nullptr, .watcher = &mask});
    valid_ = mask.valid;
  }

  Tensor run(const Run& how) override {
    const bool two = model_.options().form == "encoder_decoder";
    Editor editor(how, two ? "decoder." : "");
    ModelInput input = batch_.input;
    if (how.input.defined()) input.input = how.input;
    // A stem may give its input as it is, and an edit is in place.
    if (how.edit) input.input = input.input.clone();
    input.observer = &editor;
    return model_.forward(input).y;
  }
  Tensor input() const override { return batch_.input.input; }
  int64_t vocabulary() const override {
    const InputForm& form = model_.task().input;
    return form.kind == InputForm::Kind::tokens ? form.vocabulary : 0;
  }
  Tensor valid() const override { return valid_; }
  int64_t added() const override { return model_.options().head.pooling == "cls" ? 1 : 0; }
  bool causal() const override { return model_.options().causal(); }
  bool per_token() const override { return model_.task().output.kind == OutputForm::Kind::tokens; }

 private:
  Model& model_;
  const Batch& batch_;
  Tensor valid_;
};

struct Chosen {
  std::vector<std::shared_ptr<Probe>> probes;
  std::vector<Probe::Traits> traits;
  std::vector<ProbeResult> results;
  bool gradients = false;
};

Chosen choose(const InspectionRequest& request, const std::vector<Parameter>& parameters) {
  std::vector<std::string> texts = request.probes;
  if (texts.empty()) texts = Registry<Probe>::instance().names();
  ProbeSite site;
  site.parameters = parameters;
  site.before = request.before;
  site.since = request.since;
  site.random = RandomStream(request.seed).child("probes");
  Chosen chosen;
  for (const std::string& text : texts) {
    const Choice<Probe> choice = parse_probe(text, "probe");
    chosen.probes.push_back(choice.make(site));
    chosen.traits.push_back(choice.traits());
    chosen.gradients = chosen.gradients || choice.traits().gradients;
    const std::string& summary = Registry<Probe>::instance().find(choice.kind(), "probe").summary;
    chosen.results.push_back({choice.kind(), summary, {}});
  }
  return chosen;
}

void pass(Model& model, Task& task, Batch& batch, const std::string& precision, Chosen& chosen) {
  Spread observer(chosen.probes);
  batch.input.observer = &observer;
  for (const auto& probe : chosen.probes) probe->begin();
  const c10::AutoGradMode gradients(chosen.gradients);
  ModelOutput out;
  {
    const PrecisionGuard guard(precision, model.device().type());
    out = model.forward(batch.input);
  }
  if (chosen.gradients) {
    const LossSum loss = task.loss(out.y, batch);
    Tensor mean = loss.sum / std::max(loss.count, 1.0);
    for (const Tensor& extra : out.losses) mean = mean + extra;
    mean.backward();
  }
  const c10::NoGradGuard no_grad;
  for (const auto& probe : chosen.probes) probe->end();
  batch.input.observer = nullptr;
}

}  // namespace

std::vector<ProbeResult> inspect(Model& model, Task& task, const InspectionRequest& request) {
  Untouched untouched(model);
  Chosen chosen = choose(request, untouched.parameters());
  const int64_t all = task.validation_items();
  const int64_t items = request.items > 0 ? std::min(request.items, all) : all;
  Batch first;
  for (int64_t b = 0; b < request.batches && b * items < all; ++b) {
    Batch batch = task.validation_batch(b * items, std::min(items, all - b * items));
    match_model(batch, model);
    pass(model, task, batch, request.precision, chosen);
    for (Parameter& p : untouched.parameters()) p.tensor.mutable_grad() = Tensor();
    if (b == 0) first = batch;
  }
  std::unique_ptr<ModelSubject> subject;
  for (size_t i = 0; i < chosen.probes.size(); ++i) {
    if (chosen.traits[i].experiments) {
      if (!subject) subject = std::make_unique<ModelSubject>(model, first);
      chosen.probes[i]->experiment(*subject);
    }
    const c10::NoGradGuard no_grad;
    chosen.results[i].findings = chosen.probes[i]->findings();
  }
  return std::move(chosen.results);
}

}  // namespace formwork
