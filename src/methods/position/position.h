// Axis "position": how a model knows where a token stands. A method acts in one of three places.
#pragma once

#include "core/registry.h"
#include "methods/module.h"

namespace formwork {

/// Where positions are used.
struct PositionSite {
  int64_t width = 0;       // D
  int64_t heads = 1;       // H
  int64_t head_width = 0;  // K
  int64_t length = 0;      // the longest sequence of the task; 0 = unknown
  bool causal = false;
  RandomStream random{0};
};

/// p [N] or [B,N] int64 are absolute positions (with a state they go on from its length).
class Position : public Module {
 public:
  static constexpr const char* kAxis = "position";
  using Context = PositionSite;
  struct Traits {
    bool adds = false;       // added to the embedded tokens
    bool rotates = false;    // rotates queries and keys
    bool biases = false;     // added to the scores
    bool toeplitz = false;   // the bias depends on key minus query only: diagonals() works
    bool shared = true;      // one object for all layers, or one a layer
    bool any_length = true;  // defined beyond the lengths met in training
  };

  /// x [B,N,D] → x with positions added.
  virtual Tensor add(const Tensor& x, const Tensor& positions);
  /// q or k [B,H,N,K] → rotated.
  virtual Tensor rotate(const Tensor& x, const Tensor& positions);
  /// Added to the scores: [H,Nq,Nk] or [B,H,Nq,Nk], of the type that the scores have.
  virtual Tensor bias(const Tensor& query_positions, const Tensor& key_positions,
                      at::ScalarType type = at::kFloat);
  /// The same bias by its diagonals [H, 2N-1]: entry N-1+r is that of key - query = r.
  virtual Tensor diagonals(int64_t n, at::ScalarType type = at::kFloat);
};

}  // namespace formwork
