#include "core/processor.h"

#include <fstream>

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace formwork {

std::string field_of_file(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const size_t at = line.find_first_of(":=");
    if (at == std::string::npos || line.find_last_not_of(" \t", at - 1) + 1 != key.size()) continue;
    const size_t first = line.find_first_not_of(" \t\"", at + 1);
    if (first == std::string::npos) return "";
    return line.substr(first, line.find_last_not_of(" \t\"") + 1 - first);
  }
  return "";
}

std::string processor_name() {
#ifdef __APPLE__
  char name[256] = "";
  size_t size = sizeof name;
  if (::sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
  return "";
#else
  const std::string name = field_of_file("/proc/cpuinfo", "model name");
  return name.empty() ? field_of_file("/proc/cpuinfo", "Model") : name;  // on some ARM boards
#endif
}

bool multiplies_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace formwork
