// Softmax attention over explicit sets of keys, shared by the mixers that form pair scores.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace formwork {

using at::Tensor;
struct Stream;

/// What restricts and shifts the scores q·k·scale of [B,H,Nq,K] with [B,Hkv,Nk,K].
struct Scores {
  Tensor allowed;       // bool, broadcasts to [B,H,Nq,Nk]; undefined = every pair
  Tensor bias;          // added, broadcasts likewise; undefined = none
  bool causal = false;  // pair (i, j) needs j <= i (Nq = Nk); without a mask in memory
  double dropout = 0.0;
  std::optional<double> scale;  // 1/sqrt(K) where absent
};

/// Whether the tiled kernel (kernels/attention.h) is the one for such queries and keys: on the CPU,
/// in float32 or bfloat16, without dropout.
bool tiles_serve(const Tensor& q, const Tensor& k, double dropout);

/// softmax(scores) v [B,H,Nq,V]; a query without an allowed key gives 0. Hkv divides H.
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores);

/// The scores [B,H,Nq,Nk] themselves, -infinity at closed pairs; leading dimensions are free.
Tensor attention_scores(const Tensor& q, const Tensor& k, const Scores& scores);
/// softmax(scores) [B,H,Nq,Nk]; for biases that broadcast over more dimensions than fused attention
/// knows.
Tensor attention_weights(const Tensor& q, const Tensor& k, const Scores& scores);

/// Shows "scores" and "attention" [B,H,Nq,Nk] to an observer that wants them. Fused attention forms
/// neither, so they are computed aside, without gradients and without dropout: what the model
/// computes stays as it is, its random numbers too.
void show_attention(const Stream& stream, const Tensor& q, const Tensor& k, Scores scores);

/// "query", "key" and "value" as they are, and what show_attention shows.
void show_parts(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                const Scores& scores);

/// True where `valid` [B,N] has no real token after a padded one.
bool right_padded(const Tensor& valid);
/// Keeps queries from keys that are not `valid` [B,N] (may be undefined). scores.causal says
/// whether they see their past only: then no valid token looks at padding to its right, and no mask
/// is needed.
void hide_padding(Scores& scores, const Tensor& valid);
/// True where `valid` is undefined or true everywhere.
bool all_valid(const Tensor& valid);

}  // namespace formwork
