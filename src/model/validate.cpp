// The one place that knows which choices go together; it reads only what methods declare.
#include <algorithm>

#include "model/options.h"

namespace formwork {
namespace {

/// "softmax, local, linear": the methods of an axis whose default options satisfy `fits`.
template <class Axis>
std::string kinds_that(const std::function<bool(const typename Axis::Traits&)>& fits) {
  std::string list;
  for (const std::string& name : Registry<Axis>::instance().names())
    if (fits(Choice<Axis>(name).traits())) list += (list.empty() ? "" : ", ") + name;
  return list.empty() ? "none yet" : list;
}

/// A mixer that is an oracle and a wiring that carries a momentum need each other.
void check_momentum(const LayerOptions& layer, const std::string& where) {
  const bool needed = layer.mixer.traits().momentum, carried = layer.wiring.traits().momentum;
  check(!needed || carried, "model.wiring.kind" + where, "'", layer.wiring.kind(),
        "' carries no momentum, but model.mixer.kind = '", layer.mixer.kind(),
        "': a momentum stream requires a stack with auxiliary state; valid wirings: ",
        kinds_that<Wiring>([](const auto& t) { return t.momentum; }));
  check(!carried || needed, "model.mixer.kind" + where, "'", layer.mixer.kind(),
        "' gives no force, which model.wiring.kind = '", layer.wiring.kind(),
        "' with these options needs for its momentum; valid: ",
        kinds_that<Mixer>([](const auto& t) { return t.momentum; }));
}

void check_layer(const ModelOptions& options, const TaskForm& task, int64_t index) {
  const LayerOptions layer = options.layer(index);
  const Mixer::Traits mixer = layer.mixer.traits();
  const std::string key = join_text("model.mixer.kind (layer ", index, ")");
  const std::string kind = "'" + layer.mixer.kind() + "'";
  const bool own_width = mixer.qkv_width > 0;
  const int64_t inner = own_width ? mixer.qkv_width : options.width;
  check(inner % options.heads == 0, "model.heads", "found ", options.heads,
        ", which does not divide ", own_width ? "model.mixer.qkv_dim = " : "model.width = ", inner,
        "; valid: a divisor of it");
  check_momentum(layer, join_text(" (layer ", index, ")"));
  if (options.causal()) {
    check(!mixer.leak, key, kind, " in a causal model (model.form = ", options.form,
          "): ", mixer.leak ? mixer.leak : "");
    check(mixer.causal, key, kind, " sees the future, but model.form = ", options.form,
          " must not; valid: ", kinds_that<Mixer>([](const auto& t) { return t.causal; }),
          ", or model.form = \"encoder\"");
  } else {
    check(mixer.bidirectional, key, kind, " only looks back, but model.form = encoder sees both ",
          "ways; valid: ", kinds_that<Mixer>([](const auto& t) { return t.bidirectional; }));
  }
  if (options.form == "encoder_decoder") {
    check(mixer.cross && mixer.bidirectional, key, kind,
          " cannot read an encoder's output, but model.form = encoder_decoder needs that; valid: ",
          kinds_that<Mixer>([](const auto& t) { return t.cross && t.bidirectional; }));
  }
  const Position::Traits position = options.position.traits();
  const std::string position_kind = "'" + options.position.kind() + "'";
  check(!position.rotates || mixer.rotary, "model.position.kind", position_kind,
        " rotates queries and keys, but model.mixer.kind = ", kind, " in layer ", index,
        " has none to rotate; valid positions: ",
        kinds_that<Position>([](const auto& t) { return !t.rotates && !t.biases; }));
  const int64_t width = options.layer(0).mixer.traits().qkv_width;
  check(!position.rotates || !position.shared || mixer.qkv_width == width, "model.position.kind",
        position_kind, " turns the heads of all layers alike, but model.mixer.qkv_dim is ",
        mixer.qkv_width, " in layer ", index, " and ", width,
        " in layer 0 (0: model.width); valid: the same in all layers");
  check(!position.biases || mixer.bias, "model.position.kind", position_kind,
        " adds a bias to scores, but model.mixer.kind = ", kind, " in layer ", index,
        " forms no pair scores; valid positions: ", kinds_that<Position>([&](const auto& t) {
          return !t.biases && (!t.rotates || mixer.rotary);
        }));
  if (mixer.fixed_length)
    check(task.input.length > 0, key, kind,
          " needs a fixed length, but the task's inputs have none; set task.length");
  const bool channel = layer.channel.traits().present;
  const bool whole = layer.wiring.traits().whole_layer;
  const bool channel_whole = layer.channel_wiring.traits().whole_layer;
  check(!(whole || channel_whole) || layer.wiring.kind() == layer.channel_wiring.kind(),
        "model.channel_wiring.kind", "'", layer.channel_wiring.kind(),
        "' beside model.wiring.kind = '", layer.wiring.kind(), "' in layer ", index, ": ",
        whole ? layer.wiring.kind() : layer.channel_wiring.kind(),
        " needs both sublayers; set both to the same");
  check(!whole || channel, "model.channel.kind", "'none' with model.wiring.kind = '",
        layer.wiring.kind(), "' in layer ", index, ", which needs both sublayers; valid wirings: ",
        kinds_that<Wiring>([](const auto& t) { return !t.whole_layer; }));
}

}  // namespace

void validate(const ModelOptions& options, const TaskForm& task) {
  const Stem::Traits stem = options.stem.traits();
  check(stem.takes == task.input.kind, "model.stem.kind", "'", options.stem.kind(), "' takes ",
        kind_name(stem.takes), ", but task.kind gives ", kind_name(task.input.kind),
        "; valid: ", kinds_that<Stem>([&](const auto& t) { return t.takes == task.input.kind; }));
  check(!options.causal() || stem.causal || task.output.kind != OutputForm::Kind::tokens,
        "model.stem.kind", "'", options.stem.kind(),
        "' with these options lets a token see later "
        "input, but model.form = ",
        options.form, " must not");
  check(!options.causal() || options.conditioning.traits().causal, "model.conditioning.kind", "'",
        options.conditioning.kind(), "' sees the future, but model.form = ", options.form,
        " must not; valid: ", kinds_that<Conditioning>([](const auto& t) { return t.causal; }));
  const Conditioning::Traits conditioning = options.conditioning.traits();
  check(!conditioning.continuous || stem.takes != InputForm::Kind::tokens,
        "model.conditioning.kind", "'", options.conditioning.kind(),
        "' needs continuous tokens, but model.stem.kind = ", options.stem.kind(),
        " looks them up in a table; valid stems: ",
        kinds_that<Stem>([](const auto& t) { return t.takes != InputForm::Kind::tokens; }));
  check(!conditioning.patches || stem.patches, "model.conditioning.kind", "'",
        options.conditioning.kind(),
        "' with these options needs the patches that tokens are made of, but model.stem.kind = ",
        options.stem.kind(), " does not keep them; valid stems: ",
        kinds_that<Stem>([](const auto& t) { return t.patches; }));
  check(options.form != "encoder_decoder" || task.source.vocabulary > 0, "model.form",
        "encoder_decoder needs a task with a source and a target; valid tasks: sequence with "
        "source = true");
  check(options.form == "encoder_decoder" || task.source.vocabulary == 0, "model.form", "found '",
        options.form, "', but the task has a source and a target; valid: encoder_decoder");
  const Position::Traits added = options.added_position.traits();
  check(options.added_position.kind() == "none" || added.adds, "model.added_position.kind", "'",
        options.added_position.kind(), "' does not add to the vectors; valid: ",
        kinds_that<Position>([](const auto& t) { return t.adds; }), ", none");
  check(!(added.adds && options.position.traits().adds), "model.added_position.kind", "'",
        options.added_position.kind(), "' and model.position.kind = '", options.position.kind(),
        "' both add to the vectors; leave one of them none");
  const bool pooled = task.output.kind != OutputForm::Kind::tokens;
  const std::string& pooling = options.head.pooling;
  check(pooled || pooling == "auto", "model.head.pooling", "found '", pooling,
        "', but the task wants an output at every token; valid: auto");
  check(pooling != "cls" || !options.causal(), "model.head.pooling",
        "'cls' stands before the first token and sees nothing in a causal model (model.form = ",
        options.form, "); valid: last, mean");
  check(pooling != "flatten" || task.input.length > 0, "model.head.pooling",
        "'flatten' needs a fixed length, but the task's inputs have none; valid: mean, last");
  check(
      !options.head.tied || (task.input.kind == InputForm::Kind::tokens && !pooled &&
                             task.input.vocabulary == task.output.size && options.head.hidden == 0),
      "model.head.tied",
      "true, but a tied head needs a task that predicts tokens of its own "
      "vocabulary, and model.head.hidden = 0");
  for (const LayerOverride& item : options.overrides)
    for (const int64_t at : item.at)
      check(at < options.depth, "model.layer.at", "found ", at,
            "; valid: 0 to model.depth - 1 = ", options.depth - 1);
  for (int64_t index = 0; index < options.depth; ++index) check_layer(options, task, index);
}

}  // namespace formwork
