// Steps over many tensors at once: the norm of all gradients, their scaling, and Adam.
#pragma once

#include <vector>

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// A contiguous array of any of the element types.
struct Array {
  void* data = nullptr;
  int64_t count = 0;
};

/// Floats of room that gradient_norm needs for these arrays.
int64_t gradient_norm_room(const std::vector<Array>& gradients);

/// result[0] = the L2 norm over all arrays together, result[1] = what brings it to at most
/// `max_norm`: max_norm / (norm + 1e-6), or 1 where it is less already or no finite number. Summed
/// in one order, over blocks in float32, between them in float64.
Status gradient_norm(const std::vector<Array>& gradients, Element element, float max_norm,
                     float* room, float* result, Stream stream);

/// Every number times *factor, a float in device memory.
Status scale_arrays(const std::vector<Array>& arrays, Element element, const float* factor,
                    Stream stream);

/// One parameter of Adam and what belongs to it.
struct AdamParameter {
  float* value = nullptr;
  const void* gradient = nullptr;
  float* mean = nullptr;
  float* square = nullptr;
  float* largest = nullptr;  // of square so far, with amsgrad; else nullptr
  void* rounded = nullptr;   // a bfloat16 copy of the new value, or nullptr
  int64_t count = 0;
};

/// m += (1-β₁)(g-m); v = β₂v + (1-β₂)g²; p -= rate/c₁ · m/(sqrt(v)/sqrt(c₂) + ε), cᵢ = 1-βᵢᵗ. Decay
/// λ: p ← p(1 - rate λ) before the step, or with `l2` g ← g + λp. See methods/optimizer/adam.h.
struct AdamStep {
  double rate = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0.0;
  bool l2 = false;
  int64_t count = 1;  // t
  Element gradient_element = Element::float32;
  const float* gradient_factor = nullptr;  // in device memory: times every gradient; or nullptr
};
Status adam_step(const std::vector<AdamParameter>& parameters, const AdamStep& step, Stream stream);

}  // namespace formwork::FORMWORK_CUDA
