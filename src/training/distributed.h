// Data-parallel processes: who am I, and sums over all of us.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "methods/module.h"

namespace formwork {

/// The processes of one training. With one process every sum is what was given.
class Processes {
 public:
  virtual ~Processes() = default;

  /// Joins the group that torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) or Slurm's
  /// variables describe; a single process without them.
  static std::unique_ptr<Processes> from_environment();
  /// Whether those variables are set: this process is one of a group.
  static bool started();

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Replaces each tensor by its sum over all processes, in few large messages.
  virtual void all_reduce_sum(std::vector<Tensor>& tensors) = 0;
  virtual double sum(double value) = 0;
  /// Sums by name over the names that any process has.
  virtual std::map<std::string, double> sum(const std::map<std::string, double>& values) = 0;
  /// The value that process 0 has.
  virtual double from_first(double value) = 0;
  virtual void barrier() = 0;
};

}  // namespace formwork
