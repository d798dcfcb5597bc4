#include "model/stack.h"

#include <c10/core/GradMode.h>

#include "core/memory.h"
#include "methods/dropout.h"

namespace formwork {
namespace {

bool norm_wanted(const std::string& setting, bool automatic) {
  return setting == "auto" ? automatic : setting == "on";
}

std::shared_ptr<Norm> make_norm(const Choice<Norm>& choice, int64_t width,
                                const RandomStream& random) {
  NormSite site;
  site.width = width;
  site.random = random;
  return choice.make(site);
}

/// Refuses a depth whose parameters alone could not be held, once the size of one layer is known.
void check_depth_fits(const Block& block, int64_t built, int64_t all) {
  double bytes = 0.0;
  for (const Parameter& parameter : block.parameters())
    bytes += static_cast<double>(parameter.tensor.nbytes());
  check_room(bytes * static_cast<double>(all - built), "model.depth",
             join_text("for the parameters of ", all, " layers; about ",
                       static_cast<int64_t>(static_cast<double>(available_memory()) / bytes),
                       " layers of this width would fit"));
}

PositionSite position_site(const Site& site, const Mixer::Traits& mixer) {
  PositionSite position;
  position.width = site.width;
  position.heads = site.heads;
  position.head_width = (mixer.qkv_width > 0 ? mixer.qkv_width : site.width) / site.heads;
  position.length = site.length;
  position.causal = site.causal;
  position.random = site.random.child("position");
  return position;
}

}  // namespace

Site Stack::base_site(const ModelOptions& options, const Setup& setup,
                      const RandomStream& random) const {
  Site site;
  site.width = options.width;
  site.heads = options.heads;
  site.depth = options.depth;
  site.vocabulary = setup.input.vocabulary;
  site.causal = setup.causal;
  site.dropout = options.dropout;
  site.attention_dropout = options.attention_dropout;
  site.random = random;
  site.make_linear = [linear = options.linear, init = options.init](const LinearSite& where) {
    LinearSite copy = where;
    copy.init = init;
    return linear.make(copy);
  };
  site.make_norm = [norm = options.every_layer.norm, random](int64_t width) {
    return make_norm(norm, width, random.child("norm"));
  };
  return site;
}

Stack::Stack(const ModelOptions& options, const Setup& setup, const RandomStream& random)
    : dropout_(options.dropout),
      takes_tokens_(setup.input.kind == InputForm::Kind::tokens),
      condition_class_token_(options.conditioning.traits().class_token),
      centre_embedding_(options.centre_embedding) {
  Site site = base_site(options, setup, random);
  StemSite stem_site;
  static_cast<Site&>(stem_site) = site;
  stem_site.name = "stem";
  stem_site.random = random.child("stem");
  stem_site.input = setup.input;
  stem_ = add_module("stem", options.stem.make(stem_site));
  if (setup.cls) cls_ = add_parameter("cls", at::zeros({options.width}), Role::embedding);
  site.length = setup.input.length > 0 ? tokens(setup.input.length) : 0;

  site.name = "conditioning";
  ConditioningSite conditioned;
  static_cast<Site&>(conditioned) = site;
  conditioned.patch_width = stem_->patch_width();
  conditioning_ = add_module("conditioning", options.conditioning.make(conditioned));
  const Mixer::Traits mixer = options.layer(0).mixer.traits();
  PositionSite where = position_site(site, mixer);
  position_ = add_module("position", options.position.make(where));
  PositionSite added = position_site(site, mixer);
  added.random = random.child("added_position");
  added_position_ = add_module("added_position", options.added_position.make(added));
  site.position = position_;

  const Wiring::Traits first = options.layer(0).wiring.traits();
  const LayerOptions last_layer = options.layer(options.depth - 1);
  const Wiring::Traits last = last_layer.channel.traits().present
                                  ? last_layer.channel_wiring.traits()
                                  : last_layer.wiring.traits();
  const bool embed = first.embed_norm && options.layer(0).channel_wiring.traits().embed_norm;
  if (norm_wanted(options.embed_norm, embed))
    embed_norm_ = add_module(
        "embed_norm", make_norm(options.layer(0).norm, options.width, random.child("embed_norm")));
  build_blocks(options, setup, random);
  if (norm_wanted(options.final_norm, last.final_norm))
    final_norm_ = add_module("final_norm",
                             make_norm(last_layer.norm, options.width, random.child("final_norm")));
}

void Stack::build_blocks(const ModelOptions& options, const Setup& setup,
                         const RandomStream& random) {
  Site site = base_site(options, setup, random);
  site.length = setup.input.length > 0 ? tokens(setup.input.length) : 0;
  depth_ = add_module("depth", options.depth_plan.make(site));
  const DepthPlan plan = depth_->plan(options.depth);
  order_ = plan.order;
  site.depth = static_cast<int64_t>(order_.size());
  const bool shared = options.position.traits().shared;
  for (int64_t i = 0; i < plan.blocks; ++i) {
    site.layer = i;
    site.name = join_text("layers.", i);
    site.random = random.child(site.name);
    site.position = position_;
    if (!shared && i > 0) {
      PositionSite where = position_site(site, options.layer(i).mixer.traits());
      site.position = add_module(site.name + ".position", options.position.make(where));
    }
    blocks_.push_back(
        add_module(site.name, std::make_shared<Block>(options.layer(i), site, setup.cross)));
    if (i == 0) check_depth_fits(*blocks_[0], 1, plan.blocks);
  }
  for (size_t i = 0; i < order_.size(); ++i) names_.push_back(join_text("layers.", i));
}

Tensor Stack::positions_of(const Stream& stream, const std::vector<State>* states) {
  const int64_t n = stream.x.size(1);
  if (states) {
    const State& state = states->front();
    const int64_t start = state.common_length();
    if (start < 0 || stream.valid.defined()) return state.next_positions(n, stream.valid);
    return at::arange(start, start + n, at::kLong);
  }
  if (!cached_positions_.defined() || cached_positions_.size(0) != n ||
      cached_positions_.device() != stream.x.device())
    cached_positions_ = at::arange(n, at::TensorOptions(at::kLong).device(stream.x.device()));
  return cached_positions_;
}

void Stack::condition(Stream& stream) {
  stream.show("tokens", stream.x);
  stream.x = conditioning_->forward(stream.x, stream);
  stream.show("conditioned", stream.x);
}

void Stack::embed(const Tensor& input, Stream& stream, const std::vector<State>* states) {
  stream.place = "stem";
  stream.x = stem_->forward(input, stream);
  if (takes_tokens_) stream.tokens = input;
  if (!condition_class_token_) condition(stream);
  if (cls_.defined()) {
    const Tensor cls = cls_.expand({stream.x.size(0), 1, -1}).to(stream.x.scalar_type());
    stream.x = at::cat({cls, stream.x}, 1);
    if (stream.valid.defined())
      stream.valid = at::cat({at::ones_like(stream.valid.slice(1, 0, 1)), stream.valid}, 1);
  }
  if (!stream.positions.defined()) stream.positions = positions_of(stream, states);
  if (stream.valid.defined()) stream.show("valid", stream.valid);
  if (condition_class_token_) condition(stream);
  stream.x = added_position_->add(position_->add(stream.x, stream.positions), stream.positions);
  stream.x = dropped(stream.x, dropout_, training());
  if (centre_embedding_) stream.x = stream.x - stream.x.mean(-1, true);
  if (embed_norm_) stream.x = embed_norm_->forward(stream.x, stream.valid);
  stream.show("output", stream.x);
}

void Stack::checkpoint_activations(bool on) {
  kept_.clear();
  if (!on) return;
  for (size_t i = 0; i < order_.size(); ++i) {
    std::vector<Module*> modules{blocks_[static_cast<size_t>(order_[i])].get()};
    if (Module* part = depth_->part(static_cast<int64_t>(i))) modules.push_back(part);
    kept_.push_back(kept_by(modules));
  }
}

void Stack::apply(Stream& stream, size_t application, State* states) {
  const auto part = [this, application, states](Stream& on) {
    depth_->apply(on, static_cast<int64_t>(application), [&] {
      blocks_[static_cast<size_t>(order_[application])]->forward(on, states, names_[application]);
    });
  };
  if (kept_.empty() || states || !c10::GradMode::is_enabled())
    part(stream);
  else
    run_checkpointed(stream, kept_[application], part);
}

void Stack::forward(const Tensor& input, Stream& stream, std::vector<State>* states) {
  embed(input, stream, states);
  size_t next_state = 0;
  const auto apply_next = [&](int64_t application) {
    const auto index = static_cast<size_t>(application);
    State* here = states ? &(*states)[next_state] : nullptr;
    next_state +=
        static_cast<size_t>(blocks_[static_cast<size_t>(order_[index])]->states_per_application());
    apply(stream, index, here);
  };
  depth_->run(stream, apply_next, static_cast<int64_t>(order_.size()));
  if (final_norm_) stream.x = final_norm_->forward(stream.x, stream.valid);
  stream.place = "final";
  stream.show("output", stream.x);
}

std::vector<State> Stack::make_states(int64_t batch, int64_t capacity, at::ScalarType type) const {
  std::vector<State> all;
  for (const int64_t index : order_)
    for (State& state : blocks_[static_cast<size_t>(index)]->make_states(batch, capacity, type))
      all.push_back(std::move(state));
  return all;
}

void Stack::commit(std::vector<State>& states, const Tensor& kept) {
  size_t next = 0;
  for (const int64_t index : order_) {
    Block& block = *blocks_[static_cast<size_t>(index)];
    block.mixer().commit(states[next], kept);
    // The states of cross-attention do not change while decoding.
    if (block.states_per_application() == 2) states[next + 1].rollback();
    next += static_cast<size_t>(block.states_per_application());
  }
}

}  // namespace formwork
