// What travels through the blocks of a Transformer.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace formwork {

using at::Tensor;
struct Oracle;

/// Looks at tensors inside a model while it runs; never changes what is computed.
class Observer {
 public:
  virtual ~Observer() = default;
  /// `point` is a dotted name such as "layers.3.mixer.output".
  virtual void see(const std::string& point, const Tensor& tensor) = 0;
};

/// B batch, N tokens, D width. Undefined tensors mean "nothing of the kind".
struct Stream {
  Tensor x;           // [B,N,D] the vectors
  Tensor valid;       // [B,N] bool, true = a real token; undefined = all are real
  Tensor positions;   // [N] or [B,N] int64, absolute positions (with a state they go on from its
                      // length)
  Tensor tokens;      // [B,N'] int64 ids the stem looked up, without a class token; else undefined
  Tensor timestamps;  // [B,N] or [B,N,F], for positions made of time
  Tensor memory;      // [B,M,D] what cross-attention reads: the encoder's output
  Tensor memory_valid;         // [B,M] bool
  Tensor layer_input;          // [B,N,D] x when the present layer began (wirings that add it again)
  bool last_sublayer = false;  // the present sublayer ends its layer
  /// How often the present block has been applied to these vectors before, in a row; mixers may do
  /// something else then. Set by depth plans that recur.
  int64_t recursion = 0;
  /// Second streams a wiring keeps from sublayer to sublayer (momentum, a reversible half), by
  /// name.
  std::map<std::string, Tensor> carried;
  /// What the wiring asks of a mixer with Mixer::Traits::momentum while the sublayer runs, else
  /// null.
  Oracle* oracle = nullptr;
  /// Auxiliary losses met on the way, already weighted: added to the task's loss.
  std::vector<Tensor> losses;
  /// Set by a mixer that returns fewer tokens: maps the residual [B,N,D] to the new length.
  std::function<Tensor(const Tensor&)> resample;

  /// Where the present sublayer stands ("layers.3.mixer"), for observers and messages.
  std::string place;
  Observer* observer = nullptr;
  /// Costs one comparison when nobody looks.
  void show(const char* what, const Tensor& tensor) const {
    if (observer) observer->see(place + "." + what, tensor);
  }
};

}  // namespace formwork
