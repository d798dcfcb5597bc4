// What a run was made on: machine.json.
#pragma once

#include "core/value.h"

namespace formwork {

/// The machine and the build: date, processor, cores, threads, memory, system, libtorch and its
/// libraries, compiler, build type, version. Entries that the system does not tell are left out.
Value describe_machine();

}  // namespace formwork
