// What follows from a method's arithmetic without any training, as figures that claims can expect.
#pragma once

#include <string>
#include <vector>

namespace formwork {

/// A figure that is computed from a method, the same on every run.
struct Demonstration {
  std::string name;
  std::string figure;  // what is counted or measured, for people
  double (*compute)();
};

/// All of them, by name in a claim's [[expect]] demonstration.
const std::vector<Demonstration>& demonstrations();
/// Refuses an unknown name with the nearest known; `where` is the key it stands at.
const Demonstration& demonstration_called(const std::string& name, const std::string& where);

}  // namespace formwork
