// Which process of how many this is, from the variables of whoever started it.
#pragma once

#include <string>

namespace formwork {

/// Who this process is, and where process 0 keeps the meeting point of all.
struct ProcessPlace {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  std::string address;
  int port = 0;
};

/// Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), else those
/// of Slurm's srun (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODELIST or
/// SLURM_LAUNCH_NODE_IPADDR), else says that this process is alone. Refuses values that cannot be.
ProcessPlace place_from_environment();
/// Whether such variables are set.
bool place_is_given();
/// The first host of a list as Slurm writes it: "node[07-09,12],other" gives "node07".
std::string first_host(const std::string& list);

}  // namespace formwork
