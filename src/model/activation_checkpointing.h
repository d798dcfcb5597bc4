// Activation checkpointing: memory for time.
#pragma once

#include <functional>
#include <vector>

#include "methods/module.h"
#include "methods/stream.h"

namespace formwork {

/// What a part of a pass changes besides the stream.
struct Kept {
  std::vector<Tensor> buffers;   // running statistics
  std::vector<Module*> modules;  // those of Module::passes()
};
/// Of the modules below these.
Kept kept_by(const std::vector<Module*>& modules);

/// Runs `part` on the stream and keeps, of all that its backward pass needs, only the stream before
/// it; the backward pass runs `part` again, from the same stream, dropout numbers and running
/// statistics, without moving any of them a second time. The graph is that of the first run, so
/// losses, gradients and statistics have the same bits as without. What `part` and `kept` refer to
/// must live as long as the graph. Chen et al. 2016, arXiv 1604.06174.
void run_checkpointed(Stream& stream, const Kept& kept, std::function<void(Stream&)> part);

}  // namespace formwork
