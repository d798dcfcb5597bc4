// The two kernels of the mixer sympformer: what they are given and what they answer.
#pragma once

#include <vector>

#include "methods/mixer/hamiltonian_sums.h"
#include "methods/oracle.h"
#include "methods/site.h"
#include "methods/state.h"

namespace formwork {

struct SympformerOptions {
  std::string kernel = "softmax";
  int64_t order = 2;
  std::string force = "hamiltonian";
  std::string flow = "metric";
  std::string metric = "theory";
  double ridge = 1e-6;
  bool include_potential = true;
  std::string causal_force = "query_only";
  bool allow_future_leak = false;
  std::string kernel_norm = "visible";
  std::optional<int64_t> kernel_length;
  double eps = 1e-8;
  int64_t chunk = 64;
  void describe(OptionSet& o);
  /// A query's force would tell it of later tokens.
  bool leaks() const {
    return kernel == "softmax" && force == "hamiltonian" && causal_force == "as_released";
  }
};

/// One evaluation.
struct FlowInput {
  Tensor x, p;   // [B,N,D], float32 or wider, 0 at invalid tokens; p undefined in first order
  Tensor count;  // what sums are divided by, broadcasts to [B,N,1]
  Tensor valid;  // [B,N] bool; undefined = all are real
  Oracle& call;
  State* state = nullptr;
};

struct FlowValues {
  Tensor flow, force;  // [B,N,D]; undefined where not wanted
};

/// A kernel with its parameters. It reads and writes the state's tensors, but accepts no input and
/// does not advance.
class FlowKernel : public Module {
 public:
  virtual FlowValues evaluate(const FlowInput& in) = 0;
  virtual State make_state(int64_t batch, int64_t capacity,
                           const at::TensorOptions& kind) const = 0;
  /// Adds tokens to a state of sums, for its replay; `calls` are their x and p, call by call.
  virtual void replay(State& state, const std::vector<FlowInput>& calls) const = 0;
};

/// softmax: the weights exp(x_iᵀ A x_j).
std::shared_ptr<FlowKernel> softmax_flow(const SympformerOptions& options, const Site& site);
/// linear: the weights x_iᵀ A x_j, in time linear in N.
std::shared_ptr<FlowKernel> linear_flow(const SympformerOptions& options, const Site& site);

}  // namespace formwork
