// Axis "probe": what can be measured inside a model while it runs.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/registry.h"
#include "methods/module.h"
#include "methods/selective_observer.h"

namespace formwork {

/// How figures are drawn: as curves over the rows, a curve a column, or only as a table.
enum class Plot { none, linear, logarithmic };

/// A row of figures for each place of the model (sublayer, layer, parameter, role). NaN means "not
/// measured"; infinity is a figure like any other.
struct Figures {
  std::string key;        // its name in JSON, "entropy"
  std::string title;      // for people, with the unit
  std::string row_title;  // what a row is: "sublayer"
  std::vector<std::string> columns;
  std::vector<std::pair<std::string, std::vector<double>>> rows;
  Plot plot = Plot::linear;
};

/// A matrix that is looked at as a picture.
struct Picture {
  std::string title, row_title, column_title;
  Tensor values;  // [R,C] float32
};

/// One figure a layer (or sublayer), recorded while training. An empty name stands for the probe's.
struct Series {
  std::string name;
  std::vector<double> values;
};

/// What a probe found.
struct Findings {
  std::vector<std::string> sentences;  // verdicts, and why there is nothing to measure
  std::vector<Figures> figures;
  std::vector<Picture> pictures;
  std::vector<Series> series;
  void say(std::string sentence);
};

/// The model under a probe together with one batch, for probes that make experiments. Runs are in
/// evaluation mode and leave the model as it is.
class Subject {
 public:
  virtual ~Subject() = default;
  struct Run {
    Tensor input;                      // instead of the batch's input, same shape
    std::function<void(Tensor)> edit;  // may change the vectors [B,N,D] after the stem in place
    Observer* watcher = nullptr;       // sees every point
  };
  /// The model's output; differentiable unless gradients are off.
  virtual Tensor run(const Run& how) = 0;
  /// What the stem reads; for ids [B,N] int64 below vocabulary(), which is 0 for other inputs.
  virtual Tensor input() const = 0;
  virtual int64_t vocabulary() const = 0;
  /// [B,N] bool, or undefined: which vectors count.
  virtual Tensor valid() const = 0;
  /// Vectors that stand before the first of the input (a cls vector).
  virtual int64_t added() const = 0;
  /// The model must not see the future.
  virtual bool causal() const = 0;
  /// The output has a row a token.
  virtual bool per_token() const = 0;
};

/// What a probe is built from.
struct ProbeSite {
  std::vector<Parameter> parameters;
  std::vector<Tensor> before;  // earlier values of the parameters, or empty
  std::string since;           // when that was: "initialisation"
  RandomStream random{0};
};

/// Measures during passes that the program makes for probes alone; one object a measurement.
class Probe {
 public:
  static constexpr const char* kAxis = "probe";
  using Context = ProbeSite;
  struct Traits {
    bool gradients = false;    // needs a backward pass
    bool updates = false;      // compares with earlier parameters
    bool experiments = false;  // runs the model again and again
    bool recorded = true;      // gives series while training
  };

  virtual ~Probe() = default;
  /// Before each pass.
  virtual void begin() {}
  /// The points it wants, such as "layers.3.attn.attention".
  virtual bool wants(const std::string& point) const {
    (void)point;
    return false;
  }
  /// A tensor at a point it wants, without its graph.
  virtual void see(const std::string& point, const Tensor& tensor) {
    (void)point;
    (void)tensor;
  }
  /// After each pass; with Traits::gradients the parameters hold the gradient of the mean loss.
  virtual void end() {}
  /// After all passes, with Traits::experiments, on the first batch.
  virtual void experiment(Subject& subject) { (void)subject; }
  virtual Findings findings() = 0;
};

/// "name" or "name:option=value,option=value" as a choice; refuses unknown names and options.
Choice<Probe> parse_probe(const std::string& text, const std::string& where);
/// The name that results of `text` are filed under: the probe's.
std::string probe_name(const std::string& text);

// ---- for probes

/// The place of `point` when it ends in "." + what, else "".
std::string place_at(const std::string& point, std::string_view what);
/// "layers.3" of "layers.3.attn" or of a parameter's name, "stem" of "stem.table",
/// "encoder.layers.0" of "encoder.layers.0.ffn".
std::string layer_of(const std::string& name);

/// Things by place, in the order in which they were met.
template <class T>
class ByPlace {
 public:
  T& operator[](const std::string& place) {
    for (auto& [name, value] : all_)
      if (name == place) return value;
    return all_.emplace_back(place, T{}).second;
  }
  T* find(const std::string& place) {
    for (auto& [name, value] : all_)
      if (name == place) return &value;
    return nullptr;
  }
  bool empty() const { return all_.empty(); }
  void clear() { all_.clear(); }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }

 private:
  std::vector<std::pair<std::string, T>> all_;
};

/// Numbers of a one-dimensional tensor.
std::vector<double> numbers(const Tensor& tensor);
/// A figure with four digits, for sentences.
std::string figure_text(double value);
/// Figures without rows yet.
Figures figures_of(const char* key, std::string title, const char* row_title,
                   std::initializer_list<const char*> columns, Plot plot = Plot::linear);
/// "head 0", "head 1", ...
std::vector<std::string> head_names(int64_t heads);

}  // namespace formwork
