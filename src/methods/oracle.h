// How a wiring with a momentum asks a mixer for both halves of a flow.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace formwork {

using at::Tensor;

/// One evaluation of dx = F, dp = G: the position x is the sublayer's input, F its output.
/// A wiring makes one object for each pass through a layer and fills in what varies.
struct Oracle {
  Tensor p;                // [B,N,D] the momentum
  bool want_flow = true;   // F; where not, the sublayer's output is undefined
  bool want_force = true;  // G
  int64_t call = 0;        // of this pass, 0 to Site::oracle_calls - 1
  int64_t position = 0;    // which x of this pass, 0 to Site::oracle_positions - 1
  Tensor force;            // [B,N,D] out: G
  /// The mixer's own, from one evaluation of the pass to the next, and the position it last noted.
  std::map<std::string, Tensor> notes;
  int64_t noted_position = -1;
};

}  // namespace formwork
