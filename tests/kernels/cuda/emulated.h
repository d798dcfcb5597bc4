// Runs the checks of a group of kernels on the CPU.
#pragma once

#include "kernels/cuda/emulation.h"
//
#include "kernels/cuda/device_array.h"

namespace formwork::emulated {

/// Whether this build can run fibers: ThreadSanitizer's cannot.
bool emulates();

/// Every finding within its limit, whatever the order in which the threads of a block take turns.
void expect_good(void (*checks)(Report&));

}  // namespace formwork::emulated
