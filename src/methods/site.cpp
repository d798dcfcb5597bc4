#include "methods/site.h"

#include "methods/norm/norm.h"
#include "methods/position/position.h"

namespace formwork {

Site plain_site(int64_t width, int64_t heads, uint64_t seed) {
  Site site;
  site.width = width;
  site.heads = heads;
  site.random = RandomStream(seed);
  PositionSite position;
  position.width = width;
  position.heads = heads;
  position.head_width = width / heads;
  site.position = Choice<Position>("none").make(position);
  site.make_linear = [](const LinearSite& where) {
    LinearSite copy = where;
    return Choice<Linear>("dense").make(copy);
  };
  site.make_norm = [](int64_t norm_width) {
    NormSite norm;
    norm.width = norm_width;
    return Choice<Norm>("layer_norm").make(norm);
  };
  return site;
}

}  // namespace formwork
