#include "kernels/rotate.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/cuda/binding.h"

namespace formwork {
namespace {

using at::Tensor;

Tensor turned(const Tensor& x, const Tensor& cosine, const Tensor& sine, Pairing pairing,
              bool backwards) {
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::rotate_pairs(x, cosine, sine, pairing, backwards);
  return cpu::rotate_pairs(x, cosine, sine, pairing, backwards);
}

bool rotates_here(const Tensor& x) {
  return x.is_cpu() ? x.dim() <= cpu::kMostRotatedDimensions
                    : gpu::serves(x) && x.dim() <= gpu::kMostRotatedDimensions;
}

struct Rotation : torch::autograd::Function<Rotation> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& cosine, const Tensor& sine, bool interleaved,
                        bool backwards) {
    context->save_for_backward({cosine, sine});
    context->saved_data["interleaved"] = interleaved;
    context->saved_data["backwards"] = backwards;
    return turned(x, cosine, sine, interleaved ? Pairing::interleaved : Pairing::half, backwards);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const bool interleaved = context->saved_data["interleaved"].toBool();
    const bool backwards = context->saved_data["backwards"].toBool();
    const Tensor back = Rotation::apply(gradients[0], saved[0], saved[1], interleaved, !backwards);
    return {back, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rotate_pairs(const Tensor& x, const Tensor& cosine, const Tensor& sine, Pairing pairing) {
  if (!rotates_here(x)) return rotate_pairs_reference(x, cosine, sine, pairing);
  return Rotation::apply(x, cosine, sine, pairing == Pairing::interleaved, false);
}

}  // namespace formwork
