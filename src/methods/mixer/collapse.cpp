#include "methods/mixer/collapse.h"

#include "core/error.h"

namespace formwork {

Tensor collapsed_query_key(const Tensor& query, const Tensor& key) {
  return at::matmul(key.t(), query);
}

CollapsedStack collapse_stack(const std::vector<HeadWeights>& layers) {
  check(!layers.empty(), "collapse", "found no layers; valid: at least 1");
  CollapsedStack stack;
  // The tokens before layer s are the collapsed ones times this matrix (rows times columns).
  Tensor product = at::eye(layers.front().query.size(1), layers.front().query.options());
  for (const HeadWeights& layer : layers) {
    const Tensor own = collapsed_query_key(layer.query, layer.key);
    stack.query_key.push_back(at::matmul(at::matmul(product, own), product.t()));
    product = at::matmul(at::matmul(product, layer.value.t()), layer.output.t());
  }
  stack.value_output = product.t().contiguous();
  return stack;
}

}  // namespace formwork
