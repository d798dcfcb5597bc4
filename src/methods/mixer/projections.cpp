#include "methods/mixer/projections.h"

namespace formwork {

ProjectionSizes projection_sizes(const Site& site, std::optional<int64_t> qkv_dim, bool bias,
                                 std::optional<int64_t> kv_heads) {
  const int64_t width = qkv_dim.value_or(site.width);
  check(site.heads >= 1 && width >= 1 && width % site.heads == 0, "mixer.qkv_dim", "found ", width,
        " for ", site.heads, " heads; valid: a multiple of the number of heads");
  ProjectionSizes sizes;
  sizes.heads = site.heads;
  sizes.kv_heads = kv_heads.value_or(site.heads);
  sizes.head_width = width / site.heads;
  sizes.bias = bias;
  check(sizes.kv_heads >= 1 && site.heads % sizes.kv_heads == 0, "mixer.kv_heads", "found ",
        sizes.kv_heads, " for ", site.heads, " heads; valid: a divisor of the number of heads");
  return sizes;
}

Projections::Projections(const Site& site, const ProjectionSizes& sizes) : sizes_(sizes) {
  const int64_t query = sizes.heads * sizes.head_width;
  const int64_t shared = sizes.kv_heads * sizes.head_width;
  const auto map = [&](const char* name, int64_t in, int64_t out, Role role) {
    return add_module(name, site.linear(name, in, out, role, sizes.bias));
  };
  q_proj_ = map("q_proj", site.width, query, Role::query);
  k_proj_ = map("k_proj", site.width, shared, Role::key);
  v_proj_ = map("v_proj", site.width, shared, Role::value);
  out_proj_ = map("out_proj", query, site.width, Role::output);
}

}  // namespace formwork
