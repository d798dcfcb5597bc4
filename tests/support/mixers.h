// What the tests of mixers share: making one, feeding it with a state, golden cases.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/value.h"
#include "methods/mixer/mixer.h"
#include "support/compare.h"
#include "support/golden.h"

namespace formwork::test {

/// A mixer in float64 on a site with a position of the kind `position`; made anew it is the same.
struct MixerCase {
  std::string kind;
  Table options;
  bool causal = true;
  int64_t width = 12, heads = 2;
  std::string position = "none";
  bool cross = false;
  std::shared_ptr<Mixer> make() const;
};

/// Standard normal numbers, the same for the same seed.
Tensor random_tensor(at::IntArrayRef shape, uint64_t seed, at::ScalarType type = at::kDouble);

/// forward without a state.
Tensor run(Mixer& mixer, const Tensor& x, const Tensor& valid = {});
/// forward with a state, as a model calls it.
Tensor feed(Mixer& mixer, const Tensor& x, State& state, const Tensor& valid = {});
/// valid [B,N] of rows that are right-padded.
Tensor lengths_mask(const std::vector<int64_t>& lengths, int64_t n);

/// Every tensor and length of row `row`, bit for bit.
void expect_same_row(const char* what, const State& a, const State& b, int64_t row);

/// Gives the mixer the tensors param.*, runs it on in.x (in.pad_mask: 1 = valid) and compares out.y
/// and every gradient of sum(out.y in.cotangent).
void check_golden(const GoldenCase& golden, Mixer& mixer);
/// The sizes that a golden case of a mixer with q_proj, k_proj, v_proj and out_proj implies:
/// options qkv_dim and bias, width, heads, causal.
MixerCase projected_case(const GoldenCase& golden, const std::string& kind);

/// Everything decode_state.md asks of a causal mixer with inputs [B,N,width].
void check_decoding(Mixer& mixer, int64_t width, double tolerance = 1e-12);

}  // namespace formwork::test
