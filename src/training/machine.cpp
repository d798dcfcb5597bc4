#include "training/machine.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sys/utsname.h>
#include <torch/version.h>
#include <unistd.h>

#include <ctime>
#include <thread>

#ifndef __APPLE__
#include <sched.h>
#endif

#include "core/build_info.h"
#include "core/memory.h"
#include "core/processor.h"

namespace formwork {
namespace {

std::string operating_system() {
  utsname names{};
  if (::uname(&names) != 0) return "";
  std::string text = std::string(names.sysname) + " " + names.release + " " + names.machine;
  const std::string pretty = field_of_file("/etc/os-release", "PRETTY_NAME");
  return pretty.empty() ? text : pretty + " (" + text + ")";
}

/// The cores that this process may use, which a scheduler may have made fewer.
int64_t usable_cores() {
#ifndef __APPLE__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::thread::hardware_concurrency();
}

int64_t physical_memory() {
  return static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
}

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S%z", &local);
  return text;
}

void set_text(Value& table, const std::string& key, const std::string& text) {
  if (!text.empty()) table[key] = text;
}

/// The first line of a version text that may hold several.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

Value describe_machine() {
  Value machine;
  machine["date"] = date();
  char host[256] = "";
  if (::gethostname(host, sizeof host - 1) == 0) set_text(machine, "host", host);
  set_text(machine, "processor", processor_name());
  machine["cores"] = usable_cores();
  machine["threads"] = static_cast<int64_t>(at::get_num_threads());
  machine["memory_bytes"] = physical_memory();
  machine["available_memory_bytes"] = available_memory();
  set_text(machine, "system", operating_system());
  machine["libtorch"] = TORCH_VERSION;
  machine["vector_instructions"] = at::get_cpu_capability();
  set_text(machine, "mkl", first_line(at::get_mkl_version()));
  set_text(machine, "onednn", first_line(at::get_mkldnn_version()));
  set_text(machine, "openmp", first_line(at::get_openmp_version()));
  machine["compiler"] = kCompiler;
  machine["build_type"] = kBuildType;
  machine["formwork"] = kVersion;
  set_text(machine, "commit", kCommit);
  return machine;
}

}  // namespace formwork
