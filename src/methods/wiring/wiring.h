// Axis "wiring": how a sublayer meets the residual stream.
#pragma once

#include <functional>

#include "core/registry.h"
#include "methods/norm/norm.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

/// One sublayer's function: normed input [B,N,D] → branch [B,N,D].
using Sublayer = std::function<Tensor(const Tensor& x)>;

/// One object a sublayer. Changes stream.x (and what it carries).
class Wiring : public Module {
 public:
  static constexpr const char* kAxis = "wiring";
  using Context = Site;
  struct Traits {
    bool final_norm = false;       // the stream leaves the last layer unnormed
    bool embed_norm = false;       // the embedded tokens are normed first
    bool whole_layer = false;      // both sublayers of a layer must use it
    bool norm_first = false;       // the one norm stands before the sublayer, whose branch is added
    bool momentum = false;         // as a mixer's: asks Stream::oracle, so the mixer must be one
    int64_t oracle_calls = 1;      // times it evaluates the sublayer in a pass,
    int64_t oracle_positions = 1;  // at so many different inputs
  };

  explicit Wiring(const Site& site) : dropout_(site.dropout) {}
  virtual void forward(Stream& stream, const Sublayer& sublayer) = 0;
  /// What multiplies the branch channel by channel before it is added [D], or undefined.
  virtual Tensor branch_scale() const { return {}; }

 protected:
  /// Dropout on a branch, in training only.
  Tensor drop(const Tensor& branch) const;
  /// residual + drop(branch), following a mixer that shortened the sequence.
  Tensor add(Stream& stream, const Tensor& residual, const Tensor& branch) const;
  /// The norm of that sum, in the same pass over memory where the norm can.
  Tensor add_and_norm(Stream& stream, const Tensor& residual, const Tensor& branch,
                      Norm& norm) const;

 private:
  double dropout_;
};

/// Runs the sublayer `body` by its wiring. Observers see its input and branch and then the stream,
/// as "place.input", "place.branch" and "place.stream".
void run_sublayer(Stream& stream, Wiring& wiring, const std::string& place, const Sublayer& body);

}  // namespace formwork
