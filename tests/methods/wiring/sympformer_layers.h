// Layers of the mixer and wiring sympformer on ready vectors, without channels.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "methods/mixer/mixer.h"
#include "methods/wiring/wiring.h"

namespace formwork::test {

/// What the layers are made of.
struct FlowCase {
  Table mixer, wiring;
  int64_t width = 12, heads = 2, layers = 1;
  bool causal = false;
  Choice<Norm> norm = Choice<Norm>("layer_norm").set({{"bias", Value(false)}});
};

/// One layer in float64.
struct FlowLayer {
  std::shared_ptr<Mixer> mixer;
  std::shared_ptr<Wiring> wiring;

  std::map<std::string, Tensor> parameters() const {
    std::map<std::string, Tensor> all;
    for (const Parameter& one : mixer->parameters()) all.emplace(one.name, one.tensor);
    for (const Parameter& one : wiring->parameters()) all.emplace(one.name, one.tensor);
    return all;
  }
  void step(Stream& stream, State* state = nullptr) const {
    wiring->forward(stream, [&](const Tensor& x) { return mixer->forward(x, stream, state); });
  }
};

/// x and p of the stream.
struct Phase {
  Tensor x, p;
};

class FlowLayers {
 public:
  explicit FlowLayers(const FlowCase& what) {
    const c10::NoGradGuard no_grad;
    for (int64_t i = 0; i < what.layers; ++i) {
      Site site = plain_site(what.width, what.heads, 31 + static_cast<uint64_t>(i));
      site.causal = what.causal;
      site.layer = i;
      site.depth = what.layers;
      site.length = 64;
      site.vocabulary = 11;
      site.make_norm = [norm = what.norm](int64_t width) {
        NormSite at;
        at.width = width;
        return norm.make(at);
      };
      site.make_linear = [](const LinearSite& at) {
        LinearSite copy = at;
        copy.init.kind = "xavier_uniform";
        return Choice<Linear>("dense").make(copy);
      };
      Choice<Wiring> wiring("sympformer");
      wiring.set(what.wiring);
      site.oracle_calls = wiring.traits().oracle_calls;
      site.oracle_positions = wiring.traits().oracle_positions;
      FlowLayer layer;
      layer.mixer = Choice<Mixer>("sympformer").set(what.mixer).make(site);
      layer.wiring = wiring.make(site);
      layer.mixer->to(at::kDouble);
      layer.wiring->to(at::kDouble);
      for (const auto& [name, tensor] : layer.parameters())
        // What is stored in float32 would be off by its rounding.
        if (name == "theta_hX" || name == "theta_hY" || name == "theta_h")
          tensor.copy_(raw_of(what.wiring, "h", tensor));
        else if (name == "eta_log.raw")
          tensor.copy_(raw_of(what.wiring, "c_log", tensor));
        else if (name == "eta_lin.raw")
          tensor.copy_(raw_of(what.wiring, "c_lin", tensor));
      layers.push_back(layer);
    }
  }

  /// softplus⁻¹ in float64.
  static Tensor raw(double value) {
    return at::scalar_tensor(value + std::log(-std::expm1(-value)), at::kDouble);
  }

  Phase run(const Tensor& x, const Tensor& p, const Tensor& valid = {},
            std::vector<State>* states = nullptr) const {
    Stream stream;
    stream.valid = valid;
    stream.x = x;
    if (p.defined()) stream.carried["momentum"] = p;
    for (size_t i = 0; i < layers.size(); ++i)
      layers[i].step(stream, states ? &(*states)[i] : nullptr);
    return {stream.x, stream.carried.at("momentum")};
  }

  std::vector<FlowLayer> layers;

 private:
  static Tensor raw_of(const Table& table, const std::string& key, const Tensor& otherwise) {
    for (const auto& [name, value] : table)
      if (name == key) return raw(*value.get<double>());
    return otherwise;
  }
};

}  // namespace formwork::test
