// Axis "mixer": how tokens exchange information.
#pragma once

#include <optional>

#include "core/registry.h"
#include "methods/position/position.h"
#include "methods/site.h"
#include "methods/state.h"
#include "methods/stream.h"

namespace formwork {

class Mixer : public Module {
 public:
  static constexpr const char* kAxis = "mixer";
  using Context = Site;
  /// What a mixer needs and offers; one validator checks recipes from these.
  struct Traits {
    bool bidirectional = true;    // works in an encoder
    bool causal = true;           // works in a decoder without seeing the future
    bool cross = false;           // can read Stream::memory
    bool rotary = false;          // honours Position::rotate
    bool bias = false;            // honours Position::bias
    bool fixed_length = false;    // needs Site::length and accepts no other
    bool changes_length = false;  // may return fewer tokens
    int64_t qkv_width = 0;        // channels of all heads' queries; 0 = the model's width
    bool equivariant = true;  // without positions or causality, permuting tokens permutes outputs
    bool momentum = false;  // an oracle (methods/oracle.h): needs a wiring that carries a momentum
    const char* leak = nullptr;  // the option by which a causal model would see the future, and the
                                 // ways out, for a message; null = none
  };

  /// x [B,N,D], already normed → [B,N,D]. `stream` tells validity, positions and memory. With a
  /// state, x are the next N tokens of each row, the state advances, and outputs at invalid tokens
  /// are 0. Without one, whether rows of padded queries are zeroed is the method's own convention:
  /// they never influence valid rows.
  virtual Tensor forward(const Tensor& x, Stream& stream, State* state = nullptr) = 0;

  /// An empty state for `batch` rows of up to `capacity` tokens (states of bounded size hold any
  /// number); refuses for mixers that see both ways. Every causal mixer decodes, but for options
  /// that cut a whole sequence into parts: those refuse here.
  virtual State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                           const at::Device& device = at::kCPU) const;

  /// Ends a speculative block of `state`: keeps the first kept[b] valid tokens fed since begin().
  /// Append-only states are cropped; recurrent ones go back and replay the kept tokens.
  void commit(State& state, const Tensor& kept);
};

/// The positions of x [B,N,D]: those of the stream, else those that follow the state's length, else
/// 0 to N-1.
Tensor positions_of(const Stream& stream, const Tensor& x, const State* state);
/// y [B,N,D] with 0 at invalid tokens.
Tensor hide_invalid(const Tensor& y, const Tensor& valid);

}  // namespace formwork
