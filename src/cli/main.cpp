#include <cstdio>

#include "core/registry.h"

int main() {
  for (const formwork::MethodInfo* m : formwork::catalogue())
    std::printf("%s %s\n", m->axis.c_str(), m->name.c_str());
  return 0;
}
