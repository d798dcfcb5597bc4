#include "training/process_place.h"

#include <charconv>
#include <cstdlib>

#include "core/error.h"

namespace formwork {
namespace {

const char* variable(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0' ? text : nullptr;
}

int number(const char* name, int low, int high) {
  const char* found = variable(name);
  check(found != nullptr, "distributed", name,
        " is not set, although other variables say that several processes run");
  const std::string text = found;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size() && value >= low && value <= high,
        "distributed", name, " is '", text, "'; an integer from ", low, " to ", high,
        " was expected");
  return value;
}

constexpr int kMany = 1 << 20;

bool started_by_torchrun() {
  return variable("WORLD_SIZE") || variable("RANK");
}

ProcessPlace torchrun_place() {
  ProcessPlace place;
  place.size = number("WORLD_SIZE", 1, kMany);
  place.rank = number("RANK", 0, place.size - 1);
  place.local_rank = variable("LOCAL_RANK") ? number("LOCAL_RANK", 0, kMany) : place.rank;
  if (place.size == 1) return place;
  place.port = number("MASTER_PORT", 1, 65535);
  check(variable("MASTER_ADDR") != nullptr, "distributed",
        "MASTER_ADDR is not set; the address of process 0 was expected");
  place.address = variable("MASTER_ADDR");
  return place;
}

// A batch script sees SLURM_NTASKS too, but runs once: only what srun starts is one of several.
bool started_by_srun() {
  if (!variable("SLURM_PROCID") || !variable("SLURM_NTASKS")) return false;
  return !variable("SLURM_JOB_ID") || variable("SLURM_STEP_ID");
}

std::string slurm_address() {
  if (const char* address = variable("MASTER_ADDR")) return address;
  // Process 0 runs on the first node; the node that srun was called on may be another one.
  for (const char* list : {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"})
    if (const char* nodes = variable(list)) return first_host(nodes);
  const char* launcher = variable("SLURM_LAUNCH_NODE_IPADDR");
  check(launcher != nullptr, "distributed",
        "neither SLURM_NODELIST nor SLURM_LAUNCH_NODE_IPADDR is set; one of them has to say where "
        "process 0 runs");
  return launcher;
}

ProcessPlace slurm_place() {
  ProcessPlace place;
  place.size =
      number(variable("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", 1, kMany);
  place.rank = number("SLURM_PROCID", 0, place.size - 1);
  place.local_rank = variable("SLURM_LOCALID") ? number("SLURM_LOCALID", 0, kMany) : place.rank;
  if (place.size == 1) return place;
  place.address = slurm_address();
  if (variable("MASTER_PORT")) {
    place.port = number("MASTER_PORT", 1, 65535);
  } else {
    // The same in all processes of a job, and seldom the same in two jobs.
    const int job = variable("SLURM_JOB_ID") ? number("SLURM_JOB_ID", 0, INT32_MAX) : 0;
    const int step = variable("SLURM_STEP_ID") ? number("SLURM_STEP_ID", 0, INT32_MAX) : 0;
    place.port = 10000 + (job % 1000 * 20 + step % 20);
  }
  return place;
}

}  // namespace

std::string first_host(const std::string& list) {
  const size_t open = list.find_first_of("[,");
  if (open == std::string::npos || list[open] == ',') return list.substr(0, open);
  const size_t close = list.find(']', open);
  check(close != std::string::npos, "distributed", "the list of nodes '", list,
        "' has a bracket that does not close");
  const size_t end = list.find_first_of("-,]", open);
  const size_t next = list.find_first_of("[,", close);
  const std::string tail =
      list.substr(close + 1, (next == std::string::npos ? next : next - close - 1));
  return list.substr(0, open) + list.substr(open + 1, end - open - 1) + tail;
}

bool place_is_given() {
  return started_by_torchrun() || started_by_srun();
}

ProcessPlace place_from_environment() {
  if (started_by_torchrun()) return torchrun_place();
  if (started_by_srun()) return slurm_place();
  return {};
}

}  // namespace formwork
