// Everything a recipe says about a model: one choice an axis, and sizes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/registry.h"
#include "methods/channel/channel.h"
#include "methods/conditioning/conditioning.h"
#include "methods/depth/depth.h"
#include "methods/mixer/mixer.h"
#include "methods/norm/norm.h"
#include "methods/position/position.h"
#include "methods/stem/stem.h"
#include "methods/wiring/wiring.h"

namespace formwork {

/// What a task wants back from a model.
struct OutputForm {
  enum class Kind {
    classes,  // one of `size` for the whole input: [B,size]
    tokens,   // one of `size` at every position: [B,N,size]
    values    // `horizon` steps of `size` numbers: [B,horizon,size]
  };
  Kind kind = Kind::tokens;
  int64_t size = 0;
  int64_t horizon = 0;
};

/// How a task uses a model; a recipe may overrule `form`.
struct TaskForm {
  InputForm input;
  OutputForm output;
  std::string form = "decoder";  // encoder, decoder, encoder_decoder
  InputForm source;              // encoder_decoder: what the encoder reads
};

/// From the last vectors to the output.
struct HeadOptions {
  std::string pooling = "auto";
  int64_t hidden = 0;
  bool tied = false;
  bool mean_over_padding = false;
  std::optional<bool> bias;
  void describe(OptionSet& o);
};

/// The choices of one layer.
struct LayerOptions {
  Choice<Mixer> mixer{"softmax"};
  Choice<Channel> channel{"mlp"};
  Choice<Norm> norm{"rms_norm"};
  Choice<Wiring> wiring{"pre"};
  Choice<Wiring> channel_wiring{"pre"};
};

/// `[[model.layer]]`: what differs in the layers `at`; parts not named are the model's.
struct LayerOverride {
  std::vector<int64_t> at;
  Value mixer, channel, norm, wiring, channel_wiring;
  void describe(OptionSet& o);
};

struct ModelOptions {
  std::string form = "auto";
  int64_t width = 128;
  int64_t depth = 4;
  int64_t heads = 4;
  double dropout = 0.0;
  double attention_dropout = 0.0;
  bool centre_embedding = false;
  std::string embed_norm = "auto";
  std::string final_norm = "auto";
  InitOptions init;
  HeadOptions head;
  Choice<Stem> stem{"token"};
  Choice<Conditioning> conditioning{"none"};
  Choice<Position> position{"rotary"};
  Choice<Position> added_position{"none"};
  Choice<Linear> linear{"dense"};
  Choice<Depth> depth_plan{"unique"};
  LayerOptions every_layer;
  std::vector<LayerOverride> overrides;

  void describe(OptionSet& o);
  /// Settles what the recipe left open and only the task or another key can tell: the stem and
  /// form for this task, channel_wiring like wiring. `given` is the recipe's [model] table.
  void settle(const Value& given, const TaskForm& task);
  /// The choices of layer `index`, overrides applied; refuses a bad override by its key.
  LayerOptions layer(int64_t index) const;
  bool causal() const { return form != "encoder"; }
};

/// Refuses what cannot work before any memory is taken: names the two keys, the reason, and the
/// choices that would work.
void validate(const ModelOptions& options, const TaskForm& task);

}  // namespace formwork
