#include "methods/position/position_cache.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace formwork {
namespace {

int64_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? -1 : static_cast<int64_t>(tensor._version());
}

}  // namespace

PositionCache::Key::Key(const at::Tensor& positions)
    : given(positions), copy(positions.clone()), version(version_of(positions)) {}

bool PositionCache::Key::matches(const at::Tensor& positions) const {
  // To compare numbers on a GPU is to wait for it.
  if (positions.is_same(given) && version >= 0 && version_of(positions) == version) return true;
  return positions.device() == copy.device() && positions.scalar_type() == copy.scalar_type() &&
         at::equal(positions, copy);
}

std::vector<at::Tensor> PositionCache::find(const std::vector<at::Tensor>& keys,
                                            at::ScalarType type, const Compute& compute) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool known =
      type == type_ && !tables_.empty() &&
      std::equal(keys.begin(), keys.end(), keys_.begin(), keys_.end(),
                 [](const at::Tensor& given, const Key& key) { return key.matches(given); });
  if (known) return tables_;
  // Tables made in inference mode could not be saved for a backward pass later.
  const c10::InferenceMode no_inference(false);
  const c10::NoGradGuard no_grad;
  tables_.clear();
  keys_.clear();
  for (const at::Tensor& key : keys) keys_.emplace_back(key);
  type_ = type;
  tables_ = compute();
  return tables_;
}

}  // namespace formwork
