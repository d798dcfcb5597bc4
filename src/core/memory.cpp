#include "core/memory.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <optional>
#include <sstream>

#include "core/error.h"

#ifdef __APPLE__
#include <mach/mach.h>
#include <sys/resource.h>
#endif

namespace formwork {
namespace {

#ifdef __APPLE__

int64_t free_memory() {
  vm_statistics64_data_t data;
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&data),
                        &count) != KERN_SUCCESS)
    return 0;
  return static_cast<int64_t>(data.free_count + data.inactive_count) * ::getpagesize();
}

#else

/// The number in bytes after `key` in a file of lines such as "VmHWM:   123 kB" or "anon 123".
std::optional<int64_t> number_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name, unit;
    int64_t number = 0;
    if (!(words >> name >> number) || name != key) continue;
    words >> unit;
    return unit == "kB" ? number * 1024 : number;
  }
  return std::nullopt;
}

#endif

/// The one number of a file; nothing where it is missing or says "max".
std::optional<int64_t> only_number(const std::filesystem::path& path) {
  std::ifstream in(path);
  int64_t number = 0;
  if (!(in >> number)) return std::nullopt;
  return number;
}

/// Use less the file cache, which the kernel drops before it kills.
int64_t held(const std::filesystem::path& folder, const char* use, const char* inactive) {
  int64_t bytes = only_number(folder / use).value_or(0);
#ifndef __APPLE__
  bytes -= number_of((folder / "memory.stat").string(), inactive).value_or(0);
#else
  (void)inactive;
#endif
  return std::max<int64_t>(bytes, 0);
}

void lower(int64_t& left, std::optional<int64_t> limit, int64_t used) {
  // The first version writes "no limit" as a number near 2^63.
  if (!limit || *limit >= int64_t{1} << 60) return;
  const int64_t here = std::max<int64_t>(*limit - used, 0);
  left = left < 0 ? here : std::min(left, here);
}

}  // namespace

std::string gigabytes(double bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << bytes / 1e9;
  return out.str();
}

void check_room(double bytes, const std::string& where, const std::string& advice) {
  const double left = static_cast<double>(available_memory());
  if (left > 0.0 && bytes > left)
    fail(where, "out of memory: found ", gigabytes(left), " GB left of the ", gigabytes(bytes),
         " GB needed ", advice);
}

int64_t memory_left_in_group(const std::string& root, const std::string& group) {
  int64_t left = -1;
  const std::filesystem::path top = std::filesystem::path(root).lexically_normal();
  std::filesystem::path at =
      (top / std::filesystem::path(group).relative_path()).lexically_normal();
  for (;;) {
    lower(left, only_number(at / "memory.max"), held(at, "memory.current", "inactive_file"));
    lower(left, only_number(at / "memory.limit_in_bytes"),
          held(at, "memory.usage_in_bytes", "total_inactive_file"));
    const std::filesystem::path parent = at.parent_path();
    if (at == top || parent == at) return left;
    at = parent;
  }
}

#ifdef __APPLE__

int64_t resident_memory() {
  mach_task_basic_info info;
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info),
                &count) != KERN_SUCCESS)
    return 0;
  return static_cast<int64_t>(info.resident_size);
}

int64_t peak_resident_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return std::max<int64_t>(usage.ru_maxrss, resident_memory());
}

int64_t available_memory() {
  return free_memory();
}

#else

int64_t resident_memory() {
  std::ifstream in("/proc/self/statm");
  int64_t total = 0, resident = 0;
  if (!(in >> total >> resident)) return 0;
  return resident * ::sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_memory() {
  // The kernel counts in batches: the peak it knows may lag behind the size now.
  return std::max(number_of("/proc/self/status", "VmHWM:").value_or(0), resident_memory());
}

int64_t available_memory() {
  int64_t available = number_of("/proc/meminfo", "MemAvailable:").value_or(0);
  std::ifstream groups("/proc/self/cgroup");  // lines "0::/path" or "7:memory:/path"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string kind = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    int64_t left = -1;
    if (kind.empty()) left = memory_left_in_group("/sys/fs/cgroup", group);
    if (kind == "memory") left = memory_left_in_group("/sys/fs/cgroup/memory", group);
    if (left >= 0) available = std::min(available, left);
  }
  return available;
}

#endif

}  // namespace formwork
