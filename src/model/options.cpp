#include "model/options.h"

#include <algorithm>

namespace formwork {

void HeadOptions::describe(OptionSet& o) {
  o.add(
      "pooling", pooling,
      "which vectors a whole-input output is made from; auto: cls for an encoder that classifies, "
      "last for a decoder, flatten for values",
      one_of({"auto", "cls", "mean", "last", "flatten"}));
  o.add("hidden", hidden, "width of a hidden layer with relu before the output; 0 = none",
        at_least(0));
  o.add("tied", tied, "use the token table as the output matrix");
  o.add("mean_over_padding", mean_over_padding,
        "mean pooling counts padding too, as Long Range Arena's code does");
  o.add("bias", bias, "a bias on the output; absent: none for an output at every token");
}

void LayerOverride::describe(OptionSet& o) {
  o.add("at", at, "layers it applies to, from 0", at_least(0));
  o.add_raw("mixer", mixer, "the mixer of these layers");
  o.add_raw("channel", channel, "the channel of these layers");
  o.add_raw("norm", norm, "the norm of these layers");
  o.add_raw("wiring", wiring, "the wiring of these layers");
  o.add_raw("channel_wiring", channel_wiring, "the wiring of the channel of these layers");
}

void ModelOptions::describe(OptionSet& o) {
  o.add("form", form, "encoder, decoder or encoder_decoder; auto: what the task needs",
        one_of({"auto", "encoder", "decoder", "encoder_decoder"}));
  o.add("width", width, "D, channels of the vectors", at_least(1));
  o.add("depth", depth, "L, layers", at_least(1));
  o.add("heads", heads, "H, heads of every mixer", at_least(1));
  o.add("dropout", dropout, "rate of dropout on sublayer branches and the embedding", fraction());
  o.add("attention_dropout", attention_dropout, "rate of dropout on attention weights", fraction());
  o.add("centre_embedding", centre_embedding,
        "subtract from every embedded token its mean over the channels");
  o.add("embed_norm", embed_norm, "norm on the embedded tokens; auto: as the wiring wants",
        one_of({"auto", "on", "off"}));
  o.add("final_norm", final_norm, "norm after the last layer; auto: as the wiring wants",
        one_of({"auto", "on", "off"}));
  o.add_group("init", "how linear maps start", [this](OptionSet& inner) { init.describe(inner); });
  o.add_group("head", "from the last vectors to the output",
              [this](OptionSet& inner) { head.describe(inner); });
  o.add_choice("stem", stem, "how raw input becomes vectors");
  o.add_choice("conditioning", conditioning, "what is done to the embedded tokens");
  o.add_choice("position", position, "how the model knows where a token stands");
  o.add_choice("added_position", added_position,
               "a second position method that adds to the embedded tokens");
  o.add_choice("linear", linear, "how linear maps are represented");
  o.add_choice("depth_plan", depth_plan, "which parameters serve which layer");
  o.add_choice("mixer", every_layer.mixer, "how tokens exchange information");
  o.add_choice("channel", every_layer.channel, "what happens inside a token");
  o.add_choice("norm", every_layer.norm, "how vectors are brought to scale");
  o.add_choice("wiring", every_layer.wiring, "how sublayers meet the residual stream");
  o.add_choice("channel_wiring", every_layer.channel_wiring,
               "the same for channels; default: wiring");
  o.add_list(
      "layer", "what differs in some layers",
      [this](OptionSet& inner) { overrides.emplace_back().describe(inner); },
      [this] {
        std::vector<std::function<void(OptionSet&)>> all;
        for (LayerOverride& item : overrides)
          all.emplace_back([&item](OptionSet& inner) { item.describe(inner); });
        return all;
      },
      [this] { overrides.clear(); });
}

namespace {

/// The first method of an axis whose default options carry, or need, a momentum.
template <class Axis>
std::string kind_with_momentum() {
  for (const std::string& name : Registry<Axis>::instance().names())
    if (Choice<Axis>(name).traits().momentum) return name;
  refuse(Axis::kAxis, "no method knows a momentum");
}

/// A mixer that is an oracle and a wiring with a momentum need each other: one brings the other
/// where the recipe is silent.
void settle_momentum(LayerOptions& layer, const Value& given) {
  const bool needed = layer.mixer.traits().momentum, carried = layer.wiring.traits().momentum;
  if (needed && !carried && !given.find("wiring"))
    layer.wiring.select(kind_with_momentum<Wiring>(), "model.wiring");
  if (carried && !needed && !given.find("mixer"))
    layer.mixer.select(kind_with_momentum<Mixer>(), "model.mixer");
}

}  // namespace

void ModelOptions::settle(const Value& given, const TaskForm& task) {
  if (form == "auto") form = task.form;
  if (!given.find("stem")) {
    switch (task.input.kind) {
      case InputForm::Kind::tokens:
        stem.select("token", "model.stem");
        break;
      case InputForm::Kind::image:
        stem.select("patch", "model.stem");
        break;
      case InputForm::Kind::series:
        stem.select("series", "model.stem");
        break;
      case InputForm::Kind::audio:
        stem.select("spectrogram", "model.stem");
        break;
    }
  }
  settle_momentum(every_layer, given);
  if (!given.find("channel_wiring")) every_layer.channel_wiring = every_layer.wiring;
  for (size_t i = 0; i < overrides.size(); ++i) {
    LayerOverride& item = overrides[i];
    const std::string key = join_text("model.layer.", i);
    check(!item.at.empty(), key + ".at", "is missing; list the layers this entry applies to");
    if (!item.wiring.is_null() && item.channel_wiring.is_null()) item.channel_wiring = item.wiring;
    // Written out in full, so that the resolved recipe holds every default.
    const auto expand = [&](Value& part, auto choice, const char* name) {
      if (part.is_null()) return;
      read_choice(choice, part, key + "." + name);
      part = write_choice(choice);
    };
    expand(item.mixer, every_layer.mixer, "mixer");
    expand(item.channel, every_layer.channel, "channel");
    expand(item.norm, every_layer.norm, "norm");
    expand(item.wiring, every_layer.wiring, "wiring");
    expand(item.channel_wiring, every_layer.channel_wiring, "channel_wiring");
  }
  if (head.pooling == "auto" && task.output.kind != OutputForm::Kind::tokens) {
    if (task.output.kind == OutputForm::Kind::values)
      head.pooling = "flatten";
    else
      head.pooling = causal() ? "last" : "cls";
  }
}

LayerOptions ModelOptions::layer(int64_t index) const {
  LayerOptions chosen = every_layer;
  for (size_t i = 0; i < overrides.size(); ++i) {
    const LayerOverride& item = overrides[i];
    if (std::count(item.at.begin(), item.at.end(), index) == 0) continue;
    const std::string key = join_text("model.layer.", i);
    const auto apply = [&](AnyChoice& choice, const Value& part, const char* name) {
      if (!part.is_null()) read_choice(choice, part, key + "." + name);
    };
    apply(chosen.mixer, item.mixer, "mixer");
    apply(chosen.channel, item.channel, "channel");
    apply(chosen.norm, item.norm, "norm");
    apply(chosen.wiring, item.wiring, "wiring");
    apply(chosen.channel_wiring, item.channel_wiring, "channel_wiring");
  }
  return chosen;
}

}  // namespace formwork
