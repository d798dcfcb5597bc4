#include "model/stack.h"

namespace formwork {

Block::Block(const LayerOptions& options, const Site& layer_site, bool cross) {
  const auto site_of = [&](const char* part) {
    Site site = layer_site;
    site.name = layer_site.name + "." + part;
    site.random = layer_site.random.child(part);
    site.make_norm = [&options, random = site.random](int64_t width) {
      NormSite norm;
      norm.width = width;
      norm.random = random.child("norm");
      return options.norm.make(norm);
    };
    return site;
  };
  Site mixer_site = site_of("attn");
  const Wiring::Traits wiring = options.wiring.traits();
  mixer_site.oracle_calls = wiring.oracle_calls;
  mixer_site.oracle_positions = wiring.oracle_positions;
  mixer_ = add_module("", options.mixer.make(mixer_site));
  mixer_wiring_ = add_module("attn", options.wiring.make(mixer_site));
  if (cross) {
    Site cross_site = site_of("cross");
    cross_site.cross = true;
    cross_site.causal = false;
    cross_site.mixer_wiring = mixer_wiring_;
    cross_ = add_module("cross", options.mixer.make(cross_site));
    cross_wiring_ = add_module("cross", options.wiring.make(cross_site));
  }
  if (!options.channel.traits().present) return;
  Site channel_site = site_of("ffn");
  channel_site.mixer_wiring = mixer_wiring_;
  channel_ = add_module("ffn", options.channel.make(channel_site));
  channel_wiring_ = add_module("ffn", options.channel_wiring.make(channel_site));
}

void Block::forward(Stream& stream, State* states, const std::string& name) {
  stream.layer_input = stream.x;
  stream.last_sublayer = !cross_ && !channel_;
  run_sublayer(stream, *mixer_wiring_, name + ".attn",
               [&](const Tensor& x) { return mixer_->forward(x, stream, states); });
  stream.last_sublayer = !channel_;
  if (cross_)
    run_sublayer(stream, *cross_wiring_, name + ".cross", [&](const Tensor& x) {
      return cross_->forward(x, stream, states ? states + 1 : nullptr);
    });
  stream.last_sublayer = true;
  if (channel_)
    run_sublayer(stream, *channel_wiring_, name + ".ffn",
                 [&](const Tensor& x) { return channel_->forward(x, stream); });
}

std::vector<State> Block::make_states(int64_t batch, int64_t capacity, at::ScalarType type) const {
  std::vector<State> states{mixer_->make_state(batch, capacity, type)};
  if (cross_) states.push_back(cross_->make_state(batch, capacity, type));
  return states;
}

}  // namespace formwork
