// Attention layers with fewer matrices that compute the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace formwork {

using at::Tensor;

/// The matrices [D,D] ([out,in]) of an attention with one head.
struct HeadWeights {
  Tensor query, key, value, output;
};

/// M = Wkᵀ Wq, so that (M x_i)·x_j = (Wq x_i)·(Wk x_j).
Tensor collapsed_query_key(const Tensor& query, const Tensor& key);

/// Layers x ← A_s x followed by one linear map.
struct CollapsedStack {
  std::vector<Tensor> query_key;  // M'_s
  Tensor value_output;            // [out,in], once after the last layer
};

/// The same outputs as the layers x ← A_s x Wvᵀ Woᵀ one after the other, without residual
/// connections, norms and channels between them: (S+1) D² numbers instead of 4 S D².
CollapsedStack collapse_stack(const std::vector<HeadWeights>& layers);

}  // namespace formwork
