// Sums over the processes of a data-parallel training, for methods whose statistics are the
// batch's: the batch is what all processes hold together.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace formwork {

/// Replaces a tensor by its sum over all processes. All processes must call it in the same order.
using ProcessSum = std::function<void(at::Tensor&)>;

/// What sum_over_processes does from now on; an empty function: nothing, there is one process. Set
/// by the group of processes while it exists.
void set_process_sum(ProcessSum sum);

/// The sum of `tensor` over all processes; with one process the tensor itself.
at::Tensor sum_over_processes(const at::Tensor& tensor);

/// Whether there is more than one process to sum over.
bool several_processes();

/// While one lives, this process sums alone: for passes that the other processes do not make.
class AloneGuard {
 public:
  AloneGuard();
  ~AloneGuard();
  AloneGuard(const AloneGuard&) = delete;
  AloneGuard& operator=(const AloneGuard&) = delete;

 private:
  ProcessSum before_;
};

}  // namespace formwork
