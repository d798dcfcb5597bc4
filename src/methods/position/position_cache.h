// What was computed last for one set of positions, kept so that all layers of a model share it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <mutex>
#include <vector>

namespace formwork {

/// Holds the tables of the latest positions and type. Safe to call from several threads.
class PositionCache {
 public:
  using Compute = std::function<std::vector<at::Tensor>()>;
  /// The tables of `keys` (tensors of positions) in `type`: those kept, or what `compute` returns.
  /// The tables never carry gradients.
  std::vector<at::Tensor> find(const std::vector<at::Tensor>& keys, at::ScalarType type,
                               const Compute& compute);

 private:
  /// Positions as they were given and a copy, since the caller may write others into the same
  /// memory.
  struct Key {
    explicit Key(const at::Tensor& positions);
    bool matches(const at::Tensor& positions) const;
    at::Tensor given, copy;
    int64_t version;  // of `given`; -1: not counted
  };
  std::mutex mutex_;
  std::vector<Key> keys_;
  at::ScalarType type_ = at::kFloat;
  std::vector<at::Tensor> tables_;
};

}  // namespace formwork
