#include <ATen/ops/empty.h>

#include "kernels/cuda/binding.h"
#include "kernels/cuda/on_tensors.h"

namespace formwork::gpu {

using at::Tensor;

bool serves_arrays(at::TensorList arrays) {
  for (const Tensor& array : arrays)
    if (!serves(array) || array.scalar_type() != arrays[0].scalar_type() ||
        array.device() != arrays[0].device() || !array.is_contiguous())
      return false;
  return !arrays.empty();
}

Tensor clip_gradients(at::TensorList gradients, double max_norm) {
  const Place place(gradients[0]);
  std::vector<cuda::Array> arrays;
  for (const Tensor& gradient : gradients)
    arrays.push_back({gradient.data_ptr(), gradient.numel()});
  const cuda::Element element = element_of(gradients[0]);
  const Tensor room = row_numbers(gradients[0], cuda::gradient_norm_room(arrays));
  const Tensor result = row_numbers(gradients[0], 2);
  succeed(cuda::gradient_norm(arrays, element, static_cast<float>(max_norm), floats(room),
                              floats(result), place.stream()));
  succeed(cuda::scale_arrays(arrays, element, floats(result) + 1, place.stream()));
  return result[0];
}

void adam_step(const AdamTensors& tensors, const cuda::AdamStep& step) {
  const Place place(tensors.values[0]);
  std::vector<cuda::AdamParameter> parameters;
  for (size_t i = 0; i < tensors.values.size(); ++i) {
    cuda::AdamParameter parameter;
    parameter.value = floats(tensors.values[i]);
    parameter.gradient = tensors.gradients[i].data_ptr();
    parameter.mean = floats(tensors.means[i]);
    parameter.square = floats(tensors.squares[i]);
    if (!tensors.largest.empty()) parameter.largest = floats(tensors.largest[i]);
    parameter.count = tensors.values[i].numel();
    parameters.push_back(parameter);
  }
  succeed(cuda::adam_step(parameters, step, place.stream()));
}

}  // namespace formwork::gpu
