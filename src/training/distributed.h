// Data-parallel processes: who am I, and sums over all of us (c10d: Gloo on the CPU, NCCL where
// libtorch has it).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "methods/module.h"

namespace formwork {

/// Another process died or cannot be reached. `told` says that whoever started the processes has
/// seen it die too (run_processes) and tells the user, so that this process need not.
class ProcessGone : public Error {
 public:
  ProcessGone(const std::string& sentence, bool told)
      : Error(Fault::failure, sentence), told_(told) {}
  bool told() const { return told_; }

 private:
  bool told_;
};

/// The processes of one training. With one process every sum is what was given. Every operation is
/// collective: all processes call the same ones in the same order. They throw ProcessGone ("process
/// k of n is gone: ...") within 30 s after a process died or its machine became unreachable; a slow
/// process is waited for.
class Processes {
 public:
  virtual ~Processes() = default;

  /// Joins the group that torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) or Slurm's
  /// variables describe; a single process without them. Refuses values that cannot be; fails when
  /// the others do not appear within five minutes.
  static std::unique_ptr<Processes> from_environment();
  /// Whether those variables are set: this process is one of a group.
  static bool started();

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Rank among the processes of this machine: the number of its accelerator.
  virtual int64_t local_rank() const = 0;
  /// Replaces each tensor by its sum over all processes, in few large messages; undefined tensors
  /// are passed over. All processes get the same bits.
  virtual void all_reduce_sum(std::vector<Tensor>& tensors) = 0;
  virtual double sum(double value) = 0;
  /// Sums by name over the names that any process has.
  virtual std::map<std::string, double> sum(const std::map<std::string, double>& values) = 0;
  /// The value that process 0 has.
  virtual double from_first(double value) = 0;
  /// Returns when all processes have called it.
  virtual void barrier() = 0;
};

}  // namespace formwork
