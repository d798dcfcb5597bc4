// Observers that choose what they look at.
#pragma once

#include <string>

#include "methods/stream.h"

namespace formwork {

/// An observer of some points only. What a model does not form by itself (attention weights) is
/// formed for it only where it wants that.
class SelectiveObserver : public Observer {
 public:
  virtual bool wants(const std::string& point) const = 0;
};

/// Whether `observer` (or null) wants a point; one that does not choose wants all.
inline bool wanted(const Observer* observer, const std::string& point) {
  const auto* selective = dynamic_cast<const SelectiveObserver*>(observer);
  return observer && (!selective || selective->wants(point));
}

/// Whether to form a tensor for nobody but the stream's observer.
inline bool wanted(const Stream& stream, const char* what) {
  return stream.observer && wanted(stream.observer, stream.place + "." + what);
}

}  // namespace formwork
