#include "model/model.h"

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>

#include "methods/selective_observer.h"

namespace formwork {
namespace {

/// What a linear map would multiply: under autocast of its type.
Tensor in_product_type(const Tensor& x) {
  const at::DeviceType device = x.device().type();
  return at::autocast::is_autocast_enabled(device) && x.scalar_type() != at::kDouble
             ? x.to(at::autocast::get_autocast_dtype(device))
             : x;
}

/// Gives the points of one of two stacks its name: "encoder.layers.0.attn.output".
class NamedStack final : public SelectiveObserver {
 public:
  NamedStack(const char* name, Observer* to) : name_(name), to_(to) {}
  void see(const std::string& point, const Tensor& tensor) override {
    to_->see(name_ + point, tensor);
  }
  bool wants(const std::string& point) const override { return wanted(to_, name_ + point); }

 private:
  std::string name_;
  Observer* to_;
};

}  // namespace

ModelState ModelState::clone() const {
  ModelState copy;
  copy.memory = memory;
  copy.memory_valid = memory_valid;
  for (const State& state : states) copy.states.push_back(state.clone());
  return copy;
}

ModelState ModelState::select(const Tensor& index) const {
  ModelState chosen;
  if (memory.defined()) chosen.memory = memory.index_select(0, index);
  if (memory_valid.defined()) chosen.memory_valid = memory_valid.index_select(0, index);
  for (const State& state : states) chosen.states.push_back(state.select(index));
  return chosen;
}

void ModelState::crop(const Tensor& n) {
  for (State& state : states) state.crop(n);
}

void ModelState::begin() {
  for (State& state : states) state.begin();
}

void ModelState::rollback() {
  for (State& state : states) state.rollback();
}

int64_t ModelState::bytes() const {
  int64_t sum = 0;
  for (const State& state : states) sum += state.bytes();
  return sum;
}

Model::Model(const ModelOptions& options, const TaskForm& task, uint64_t seed)
    : options_(options), task_(task) {
  const c10::NoGradGuard no_grad;
  const RandomStream random = RandomStream(seed).child("initialisation");
  const bool both = options.form == "encoder_decoder";
  if (both) {
    Stack::Setup setup;
    setup.input = task.source;
    encoder_ =
        add_module("encoder", std::make_shared<Stack>(options, setup, random.child("encoder")));
  }
  Stack::Setup setup;
  setup.input = task.input;
  setup.causal = options.causal();
  setup.cross = both;
  setup.cls = options.head.pooling == "cls";
  stack_ =
      add_module(both ? "decoder" : "",
                 std::make_shared<Stack>(options, setup, both ? random.child("decoder") : random));
  Site site;
  site.name = "head";
  site.width = options.width;
  site.length = task.input.length > 0 ? stack_->tokens(task.input.length) : 0;
  site.random = random.child("head");
  // The head is a plain matrix unless the linear axis asks for it.
  const Choice<Linear> linear =
      options.linear.traits().head ? options.linear : Choice<Linear>("dense");
  site.make_linear = [linear, init = options.init](const LinearSite& where) {
    LinearSite copy = where;
    copy.init = init;
    return linear.make(copy);
  };
  head_ = add_module("head", std::make_shared<Head>(options.head, task.output, site,
                                                    stack_->table(), linear.traits().exact_weight));
}

at::ScalarType Model::type() const {
  return parameters().front().tensor.scalar_type();
}

at::Device Model::device() const {
  return parameters().front().tensor.device();
}

void Model::run(const ModelInput& in, Stream& stream, ModelState* state) {
  stream.valid = in.valid;
  stream.timestamps = in.timestamps;
  stream.observer = in.observer;
  NamedStack decoder("decoder.", in.observer), encoder("encoder.", in.observer);
  if (encoder_ && in.observer) stream.observer = &decoder;
  if (state) {
    stream.memory = state->memory;
    stream.memory_valid = state->memory_valid;
  } else if (encoder_) {
    Stream source;
    source.valid = in.source_valid;
    if (in.observer) source.observer = &encoder;
    encoder_->forward(in.source, source, nullptr);
    stream.memory = source.x;
    stream.memory_valid = source.valid;
    stream.losses = std::move(source.losses);
  }
  stack_->forward(in.input, stream, state ? &state->states : nullptr);
  stream.observer = nullptr;  // it may be one of the two above
}

ModelOutput Model::forward(const ModelInput& in, ModelState* state) {
  Stream stream;
  run(in, stream, state);
  ModelOutput out{Tensor(), std::move(stream.losses)};
  const int64_t tokens = stream.x.size(0) * stream.x.size(1);
  if (tokens * task_.output.size > in.most_logits && head_->plain())
    out.unprojected = {in_product_type(stream.x), head_->weight(), head_->bias()};
  else
    out.y = head_->forward(stream.x, stream.valid);
  return out;
}

Tensor Model::next_logits(const Tensor& ids, ModelState& state) {
  check(task_.output.kind == OutputForm::Kind::tokens, "model.form",
        "does not predict tokens, so no token follows");
  ModelInput in;
  in.input = ids;
  Stream stream;
  run(in, stream, &state);
  return head_->forward(stream.x.slice(1, -1), stream.valid).squeeze(1);
}

ModelState Model::make_state(int64_t batch, int64_t capacity) const {
  check(options_.causal(), "model.form",
        "an encoder does not decode token by token; train a "
        "decoder (model.form = \"decoder\")");
  ModelState state;
  state.states = stack_->make_states(batch, capacity, type());
  return state;
}

void Model::read_source(const Tensor& source, const Tensor& source_valid, ModelState& state) {
  Stream stream;
  stream.valid = source_valid;
  encoder_->forward(source, stream, nullptr);
  state.memory = stream.x;
  state.memory_valid = stream.valid;
}

void Model::checkpoint_activations(bool on) {
  if (encoder_) encoder_->checkpoint_activations(on);
  stack_->checkpoint_activations(on);
}

void Model::lay_out() {
  visit([](const std::string&, Module& module) {
    if (auto* map = dynamic_cast<Linear*>(&module)) map->lay_out();
  });
}

PackedMaps Model::pack(PackedForm form) {
  const c10::NoGradGuard no_grad;
  PackedMaps maps;
  const auto count = [&maps](bool packed) { ++(packed ? maps.packed : maps.left); };
  visit([&](const std::string&, Module& module) {
    if (auto* map = dynamic_cast<Linear*>(&module)) count(map->pack(form));
  });
  if (head_->table_bytes() > 0) count(head_->pack_table(form));
  return maps;
}

int64_t Model::weight_bytes() const {
  int64_t bytes = head_->table_bytes();
  // Visiting changes nothing here.
  const_cast<Model*>(this)->visit([&bytes](const std::string&, Module& module) {
    if (const auto* map = dynamic_cast<const Linear*>(&module)) bytes += map->weight_bytes();
  });
  return bytes;
}

void Model::commit(ModelState& state, const Tensor& kept) {
  stack_->commit(state.states, kept);
}

}  // namespace formwork
