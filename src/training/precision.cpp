#include "training/precision.h"

#include <ATen/autocast_mode.h>

namespace formwork {

PrecisionGuard::PrecisionGuard(const std::string& precision, c10::DeviceType device)
    : on_(precision == "bfloat16"), device_(device) {
  if (!on_) return;
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, at::kBFloat16);
  at::autocast::set_autocast_cache_enabled(true);
  at::autocast::increment_nesting();
}

PrecisionGuard::~PrecisionGuard() {
  if (!on_) return;
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, false);
}

}  // namespace formwork
