#include "model/activation_checkpointing.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include "core/error.h"

namespace formwork {
namespace {

using torch::autograd::SavedVariableHooks;

/// What becomes of the tensors that autograd saves on this thread for a backward pass.
class Saving {
 public:
  virtual ~Saving() = default;
  virtual std::unique_ptr<SavedVariableHooks> next() = 0;
};
thread_local Saving* saving = nullptr;  // null: autograd keeps them itself

/// libtorch asks its engine what to do with each saved tensor; Python's engine answers likewise.
class Engine final : public torch::autograd::Engine {
 public:
  ~Engine() override { stop(); }
  std::unique_ptr<SavedVariableHooks> get_default_saved_variable_hooks() override {
    return saving ? saving->next() : nullptr;
  }
  static void install() {
    static const bool once = [] {
      torch::autograd::set_default_engine_stub([]() -> torch::autograd::Engine& {
        static Engine engine;
        return engine;
      });
      return true;
    }();
    (void)once;
  }
};

class SavingGuard {
 public:
  explicit SavingGuard(Saving& now) : before_(std::exchange(saving, &now)) {}
  ~SavingGuard() { saving = before_; }
  SavingGuard(const SavingGuard&) = delete;
  SavingGuard& operator=(const SavingGuard&) = delete;

 private:
  Saving* before_;
};

/// Mixed precision as it was where one was made: a backward pass runs outside its guard.
class Precision {
 public:
  explicit Precision(at::DeviceType device)
      : device_(device),
        on_(at::autocast::is_autocast_enabled(device)),
        cache_(at::autocast::is_autocast_cache_enabled()),
        type_(at::autocast::get_autocast_dtype(device)) {}
  at::DeviceType device() const { return device_; }
  void set() const {
    at::autocast::set_autocast_enabled(device_, on_);
    at::autocast::set_autocast_dtype(device_, type_);
    at::autocast::set_autocast_cache_enabled(cache_);
  }

 private:
  at::DeviceType device_;
  bool on_, cache_;
  at::ScalarType type_;
};

class PrecisionAgain {
 public:
  explicit PrecisionAgain(const Precision& then) : now_(then.device()) {
    then.set();
    at::autocast::increment_nesting();
  }
  ~PrecisionAgain() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    now_.set();
  }
  PrecisionAgain(const PrecisionAgain&) = delete;
  PrecisionAgain& operator=(const PrecisionAgain&) = delete;

 private:
  Precision now_;
};

/// What a pass reads and moves besides the stream: running statistics and random numbers.
struct Moving {
  at::Device device;
  std::vector<Tensor> buffers;  // undefined: not moved by the pass
  std::vector<int64_t> passes;
  Tensor generator;

  static Moving now(const Kept& kept, at::Device device) {
    Moving moving{device, {}, {}, {}};
    for (const Tensor& buffer : kept.buffers) moving.buffers.push_back(buffer.clone());
    for (const Module* module : kept.modules) moving.passes.push_back(*module->passes());
    moving.generator = moving.dropout().get_state();
    return moving;
  }
  void set(const Kept& kept) const {
    for (size_t i = 0; i < buffers.size(); ++i)
      if (buffers[i].defined()) Tensor(kept.buffers[i]).copy_(buffers[i]);
    for (size_t i = 0; i < passes.size(); ++i) kept.modules[i]->set_passes(passes[i]);
    if (generator.defined()) dropout().set_state(generator);
  }
  /// Forgets what is as it was: most methods move nothing.
  void keep_changes(const Kept& kept) {
    for (size_t i = 0; i < buffers.size(); ++i)
      if (at::equal(buffers[i], kept.buffers[i])) buffers[i].reset();
    if (at::equal(generator, dropout().get_state())) generator.reset();
  }

 private:
  struct Generator {
    at::Generator of;
    std::lock_guard<std::mutex> lock{of.mutex()};
    Tensor get_state() const { return of.get_state(); }
    void set_state(const Tensor& state) { of.set_state(state); }
  };
  Generator dropout() const { return {at::globalContext().defaultGenerator(device)}; }
};

/// Sets statistics and random numbers back and, at its end, forth again.
class MovingGuard {
 public:
  MovingGuard(const Moving& then, const Kept& kept)
      : kept_(kept), now_(Moving::now(kept, then.device)) {
    then.set(kept);
  }
  ~MovingGuard() { now_.set(kept_); }
  MovingGuard(const MovingGuard&) = delete;
  MovingGuard& operator=(const MovingGuard&) = delete;

 private:
  const Kept& kept_;
  Moving now_;
};

/// A stream as it was before a part ran on it, cut off from the graph.
class StreamBefore {
 public:
  explicit StreamBefore(const Stream& stream) : stream_(stream), version_(stream.x._version()) {
    stream_.losses.clear();
    stream_.layer_input = Tensor();
    stream_.observer = nullptr;
    visit(stream_, [&](Tensor& tensor) {
      trained_.push_back(tensor.defined() && tensor.requires_grad());
      if (tensor.defined()) tensor = tensor.detach();
    });
  }

  Stream again() const {
    check(stream_.x._version() == version_, "model",
          "a vector that activation checkpointing kept has been written over");
    Stream copy = stream_;
    size_t i = 0;
    visit(copy, [&](Tensor& tensor) {
      if (tensor.defined()) tensor = tensor.detach().requires_grad_(trained_[i]);
      ++i;
    });
    return copy;
  }

 private:
  static void visit(Stream& stream, const std::function<void(Tensor&)>& visitor) {
    visitor(stream.x);
    visitor(stream.memory);
    for (auto& [name, tensor] : stream.carried) visitor(tensor);
  }
  Stream stream_;
  std::vector<bool> trained_;
  uint32_t version_;
};

/// One part of a pass: its saved tensors are numbered and dropped, and made again when the first of
/// them is asked for.
class Segment final : public Saving, public std::enable_shared_from_this<Segment> {
 public:
  Segment(const Stream& stream, const Kept& kept, std::function<void(Stream&)> part)
      : before_(stream),
        kept_(kept),
        moving_(Moving::now(kept, stream.x.device())),
        precision_(stream.x.device().type()),
        part_(std::move(part)) {}

  void run(Stream& stream) {
    const SavingGuard guard(*this);
    part_(stream);
    const c10::NoGradGuard no_grad;
    moving_.keep_changes(kept_);
  }

  std::unique_ptr<SavedVariableHooks> next() override;
  /// The number of a tensor that is dropped.
  size_t drop(const Tensor& tensor) {
    dropped_.emplace_back(tensor.numel(), tensor.scalar_type());
    return dropped_.size() - 1;
  }
  /// The tensor of that number, which is not kept here any longer.
  Tensor take(size_t number) {
    if (made_.empty() || !made_[number].defined()) run_again();
    return std::move(made_[number]);
  }

 private:
  void run_again();

  StreamBefore before_;
  Kept kept_;
  Moving moving_;
  Precision precision_;
  std::function<void(Stream&)> part_;
  std::vector<std::pair<int64_t, at::ScalarType>> dropped_;
  std::vector<Tensor> made_;
};

class DroppedTensor final : public SavedVariableHooks {
 public:
  explicit DroppedTensor(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {}
  void call_pack_hook(const Tensor& tensor) override { number_ = segment_->drop(tensor); }
  Tensor call_unpack_hook() override { return segment_->take(number_); }

 private:
  std::shared_ptr<Segment> segment_;
  size_t number_ = 0;
};

std::unique_ptr<SavedVariableHooks> Segment::next() {
  return std::make_unique<DroppedTensor>(shared_from_this());
}

/// Collects what the second run saves; its own graph is never walked.
class Collection final : public Saving {
 public:
  std::unique_ptr<SavedVariableHooks> next() override {
    struct Collect final : SavedVariableHooks {
      explicit Collect(std::vector<Tensor>& where) : to(where) {}
      void call_pack_hook(const Tensor& tensor) override { to.push_back(tensor.detach()); }
      Tensor call_unpack_hook() override {
        fail("model", "a part of a model that is run again cannot be differentiated inside");
      }
      std::vector<Tensor>& to;
    };
    return std::make_unique<Collect>(tensors);
  }
  std::vector<Tensor> tensors;
};

void Segment::run_again() {
  // Backward passes go through segments one after the other: what an earlier one still holds, a
  // tensor of a branch that leads to no loss, will not be asked for.
  static thread_local std::weak_ptr<Segment> latest;
  if (const auto other = latest.lock(); other && other.get() != this) other->made_.clear();
  latest = weak_from_this();

  Collection collection;
  {
    Stream stream = before_.again();
    const c10::NoGradGuard no_grad;
    const MovingGuard moving(moving_, kept_);
    const PrecisionAgain precision(precision_);
    const SavingGuard guard(collection);
    const c10::AutoGradMode grad(true);
    part_(stream);
  }
  made_ = std::move(collection.tensors);
  bool same = made_.size() == dropped_.size();
  for (size_t i = 0; same && i < made_.size(); ++i)
    same = made_[i].numel() == dropped_[i].first && made_[i].scalar_type() == dropped_[i].second;
  if (!same)
    fail("train.activation_checkpointing", "a layer computed something else when it ran again (",
         made_.size(), " tensors for the backward pass, ", dropped_.size(),
         " before); set it to \"none\"");
}

}  // namespace

Kept kept_by(const std::vector<Module*>& modules) {
  Kept kept;
  for (Module* top : modules) {
    for (const auto& [name, buffer] : top->buffers()) kept.buffers.push_back(buffer);
    top->visit([&](const std::string&, Module& module) {
      if (module.passes()) kept.modules.push_back(&module);
    });
  }
  return kept;
}

void run_checkpointed(Stream& stream, const Kept& kept, std::function<void(Stream&)> part) {
  Engine::install();
  std::make_shared<Segment>(stream, kept, std::move(part))->run(stream);
}

}  // namespace formwork
