// A stack of blocks with its stem: an encoder or a decoder.
#pragma once

#include <memory>
#include <vector>

#include "model/activation_checkpointing.h"
#include "model/options.h"

namespace formwork {

/// One set of a layer's parameters: mixer, perhaps cross-attention, channel, and their wirings.
class Block final : public Module {
 public:
  /// `site` is the layer's; cross: the layer also reads Stream::memory.
  Block(const LayerOptions& options, const Site& site, bool cross);

  /// Runs the sublayers; `states` points at this application's states (mixer, then cross), or null.
  void forward(Stream& stream, State* states, const std::string& name);
  int64_t states_per_application() const { return cross_ ? 2 : 1; }
  std::vector<State> make_states(int64_t batch, int64_t capacity, at::ScalarType type) const;
  Mixer& mixer() { return *mixer_; }

 private:
  std::shared_ptr<Mixer> mixer_, cross_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Wiring> mixer_wiring_, cross_wiring_, channel_wiring_;
};

/// stem → conditioning → position → blocks by the depth plan → final norm.
class Stack final : public Module {
 public:
  struct Setup {
    InputForm input;
    bool causal = false;
    bool cross = false;
    bool cls = false;  // prepend a learned vector
  };
  Stack(const ModelOptions& options, const Setup& setup, const RandomStream& random);

  /// Fills stream.x [B,N',D]; stream.valid and stream.positions may be given.
  void forward(const Tensor& input, Stream& stream, std::vector<State>* states);
  std::vector<State> make_states(int64_t batch, int64_t capacity, at::ScalarType type) const;
  /// Whether applications of blocks are run again in the backward pass instead of being kept.
  void checkpoint_activations(bool on);
  /// Ends a speculative block in every state.
  void commit(std::vector<State>& states, const Tensor& kept);
  /// N' for the task's longest input, the cls vector counted.
  int64_t tokens(int64_t input_length) const {
    return stem_->tokens(input_length) + (cls_.defined() ? 1 : 0);
  }
  Tensor table() const { return stem_->table(); }

 private:
  void condition(Stream& stream);
  void apply(Stream& stream, size_t application, State* states);
  void embed(const Tensor& input, Stream& stream, const std::vector<State>* states);
  Tensor positions_of(const Stream& stream, const std::vector<State>* states);
  Site base_site(const ModelOptions& options, const Setup& setup, const RandomStream& random) const;
  void build_blocks(const ModelOptions& options, const Setup& setup, const RandomStream& random);

  double dropout_;
  bool takes_tokens_;
  bool condition_class_token_;
  bool centre_embedding_;
  std::shared_ptr<Stem> stem_;
  std::shared_ptr<Conditioning> conditioning_;
  std::shared_ptr<Position> position_, added_position_;
  std::shared_ptr<Norm> embed_norm_, final_norm_;
  std::shared_ptr<Depth> depth_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::vector<int64_t> order_;
  std::vector<std::string> names_;  // "layers.i" an application
  std::vector<Kept> kept_;          // an application; empty = no activation checkpointing
  Tensor cls_;
  Tensor cached_positions_;  // 0..N-1 of the last length, so that rotary tables are reused
};

}  // namespace formwork
