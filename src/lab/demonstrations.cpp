#include "lab/demonstrations.h"

#include "core/error.h"
#include "lab/formal_languages.h"
#include "lab/particle_flow.h"

namespace formwork {

const std::vector<Demonstration>& demonstrations() {
  static const std::vector<Demonstration> all{
      {"limit_law_excess",
       "L1 distance of softmax from saturated weights above the limit law's bound",
       [] { return limit_law_excess(); }},
      {"majority_errors", "words of up to 10 letters whose majority saturated attention misjudges",
       [] { return majority_errors(Chosen::saturated); }},
      {"majority_errors_of_hard_attention",
       "words of up to 10 letters whose majority hard attention misjudges",
       [] { return majority_errors(Chosen::hard_left); }},
      {"threshold_errors", "words of up to 8 letters that a threshold gate misjudges",
       [] { return threshold_errors(); }},
      {"parity_errors", "words of up to 8 letters whose parity two layers of gates misjudge",
       [] { return parity_errors(); }},
      {"bracket_errors", "words of up to 12 brackets whose balance two heads misjudge",
       [] { return bracket_errors(); }},
      {"linear_kernel_nonlinearity",
       "part of the linear kernel's flow that no affine map of its start explains",
       [] { return flow_nonlinearity("linear"); }},
      {"softmax_kernel_nonlinearity",
       "part of the softmax kernel's flow that no affine map of its start explains",
       [] { return flow_nonlinearity("softmax"); }},
      {"accelerated_decay", "energy at time 20 as a multiple of that at 40, with momentum",
       [] { return energy_decay(true); }},
      {"first_order_decay", "energy at time 20 as a multiple of that at 40, without momentum",
       [] { return energy_decay(false); }},
  };
  return all;
}

const Demonstration& demonstration_called(const std::string& name, const std::string& where) {
  std::vector<std::string> names;
  for (const Demonstration& one : demonstrations()) {
    if (one.name == name) return one;
    names.push_back(one.name);
  }
  refuse(where, unknown_name("demonstration", name, names));
}

}  // namespace formwork
