// What the sources say of the methods: the comments above their classes, and where reference
// numbers exist. Both are put into the program by the build, so that they are those of its sources.
#pragma once

#include <string>

#include "core/registry.h"

namespace formwork {

/// The comment above the class that `method` registers, as one text; empty where there is none.
std::string comment_of(const MethodInfo& method);
/// Whether tests/golden holds reference numbers for a specification.
bool has_golden(const std::string& specification);

}  // namespace formwork
