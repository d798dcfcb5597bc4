// Where in a model a method is being built: the sizes it must fit and the parts it may use.
#pragma once

#include <memory>
#include <string>

#include "core/random.h"
#include "methods/linear/linear.h"
#include "methods/module.h"

namespace formwork {

class Norm;
class Position;
class Wiring;

/// The context of norms, mixers, channels, wirings, stems and conditionings.
struct Site {
  std::string name;              // "layers.3.mixer": for messages
  int64_t width = 0;             // D
  int64_t heads = 1;             // H
  int64_t depth = 1;             // L, applications of a block
  int64_t layer = 0;             // index of this layer
  int64_t length = 0;            // the longest sequence the task makes; 0 = unknown
  int64_t vocabulary = 0;        // tokens the stem can meet; 0 = not a token model
  bool causal = false;           // the model must not see the future here
  bool cross = false;            // keys and values come from Stream::memory
  int64_t oracle_calls = 1;      // times the wiring evaluates the sublayer in a pass,
  int64_t oracle_positions = 1;  // at so many different inputs
  double dropout = 0.0;          // on sublayer branches
  double attention_dropout = 0.0;
  RandomStream random{0};              // for initialisation
  std::shared_ptr<Position> position;  // registered by the model; never null in a built model
  /// The wiring of the layer's mixer, for the wirings of its other sublayers; null for itself.
  std::shared_ptr<Wiring> mixer_wiring;
  /// Makes a linear map through the linear axis: the site's random stream and init rule apply.
  std::function<std::shared_ptr<Linear>(const LinearSite&)> make_linear;
  /// Makes a norm of the model's norm axis over `width` channels.
  std::function<std::shared_ptr<Norm>(int64_t width)> make_norm;

  /// linear(name, in, out, role[, bias]): the map's random stream is the child `name`.
  std::shared_ptr<Linear> linear(const std::string& name, int64_t in, int64_t out, Role role,
                                 bool bias = false) const {
    LinearSite site;
    site.in = in;
    site.out = out;
    site.role = role;
    site.bias = bias;
    site.depth = depth;
    site.random = random.child(name);
    return make_linear(site);
  }
};

/// A site for tests and for programs that use one method alone: dense linear maps, no position.
Site plain_site(int64_t width, int64_t heads = 1, uint64_t seed = 1);

}  // namespace formwork
