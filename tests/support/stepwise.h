// What the tests of norms with statistics of the batch share: golden cases step by step.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "core/value.h"
#include "methods/norm/norm.h"
#include "support/golden.h"

namespace formwork::test {

/// A norm in float64.
std::shared_ptr<Norm> make_norm(const std::string& kind, int64_t width, const Table& options = {});

/// Which buffer of ours a golden buffer is, and what ours is to be multiplied with to be that one.
using BufferNames = std::map<std::string, std::pair<std::string, double>>;

struct Steps {
  const GoldenCase& golden;
  Norm& norm;
  BufferNames renamed;                            // others have the golden name
  std::vector<std::string> elsewhere;             // buffers that are no buffers of ours
  std::function<void(int64_t)> before = nullptr;  // called with the step before each of them
};

/// Loads param.* and buffer.before.*, runs every step (in.stepk.x, in.stepk.cotangent, in.pad_mask)
/// and compares outputs, gradients and buffers; leaves the norm in evaluation, compares eval.y,
/// and the folded map: through param.linear with param.fused.
void check_steps(const Steps& steps);

/// Tokens that a golden pad_mask (true = padding) leaves; undefined without one.
Tensor valid_of(const GoldenCase& golden);

/// linear(norm(x)) as one linear map: {weight, bias}; `bias` may be undefined.
std::pair<Tensor, Tensor> fold_into_next(const Affine& norm, const Tensor& weight,
                                         const Tensor& bias);

/// `statements` with one norm each in two threads that stand for two processes: sums over
/// processes are over both.
void as_two_processes(const std::function<void(int)>& statements);

}  // namespace formwork::test
