// A norm of tokens and one of the batch, mixed in one pass.
#pragma once

#include "methods/norm/batch_scale.h"

namespace formwork {

/// A layer norm, or without a bias an RMS norm, over the channels: weight, bias [D].
struct TokenNorm {
  Tensor weight, bias;
  double eps = 1e-5;
  Tensor operator()(const Tensor& x) const;
};

/// share · token(x) + (1 - share) · batch_scale(x), all tokens valid; where there is no kernel for
/// x, by the two one after the other.
Tensor mixed_with_batch(const Tensor& x, const TokenNorm& token, double share,
                        const BatchScale& batch, const std::string& where);

}  // namespace formwork
