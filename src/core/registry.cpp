#include "core/registry.h"

#include <algorithm>

namespace formwork {
namespace {

std::vector<const MethodInfo*>& methods() {
  static std::vector<const MethodInfo*> all;
  return all;
}

bool before(const MethodInfo* a, const MethodInfo* b) {
  return a->axis != b->axis ? a->axis < b->axis : a->name < b->name;
}

}  // namespace

void add_to_catalogue(const MethodInfo* info) {
  methods().insert(std::upper_bound(methods().begin(), methods().end(), info, before), info);
}

const std::vector<const MethodInfo*>& catalogue() {
  return methods();
}

void check_catalogue() {
  for (size_t i = 1; i < methods().size(); ++i) {
    const MethodInfo& a = *methods()[i - 1];
    const MethodInfo& b = *methods()[i];
    if (a.axis == b.axis && a.name == b.name)
      fail(a.axis, "two methods are called '", a.name, "': ", a.file, " and ", b.file,
           "; rename one");
  }
}

}  // namespace formwork
