#include "methods/linear/layout.h"

namespace formwork {

void lay_out_weights(Module& model) {
  model.visit([](const std::string&, Module& module) {
    if (auto* map = dynamic_cast<LaidOut*>(&module)) map->lay_out();
  });
}

}  // namespace formwork
