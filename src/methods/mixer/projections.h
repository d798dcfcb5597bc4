// The linear maps around the attention of a mixer.
#pragma once

#include "methods/site.h"

namespace formwork {

/// Sizes of the maps around an attention.
struct ProjectionSizes {
  int64_t heads = 1;       // H, of queries
  int64_t kv_heads = 1;    // heads of keys and values
  int64_t head_width = 0;  // K
  bool bias = false;
};

/// The sizes for `heads` of the site sharing `qkv_dim` channels (the width where absent) and
/// `kv_heads` (as many where absent); refuses what does not divide.
ProjectionSizes projection_sizes(const Site& site, std::optional<int64_t> qkv_dim, bool bias,
                                 std::optional<int64_t> kv_heads = std::nullopt);

/// q_proj, k_proj, v_proj and out_proj with the division into heads.
class Projections final : public Module {
 public:
  Projections(const Site& site, const ProjectionSizes& sizes);

  /// x [B,N,D] → [B,H,N,K], a view of [B,N,H,K].
  Tensor query(const Tensor& x) const { return split(q_proj_->forward(x), sizes_.heads); }
  Tensor key(const Tensor& x) const { return split(k_proj_->forward(x), sizes_.kv_heads); }
  Tensor value(const Tensor& x) const { return split(v_proj_->forward(x), sizes_.kv_heads); }
  /// y [B,H,N,K] → [B,N,D].
  Tensor output(const Tensor& y) const { return out_proj_->forward(y.transpose(1, 2).flatten(2)); }

 private:
  Tensor split(const Tensor& x, int64_t heads) const {
    return x.view({x.size(0), x.size(1), heads, sizes_.head_width}).transpose(1, 2);
  }

  ProjectionSizes sizes_;
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
};

}  // namespace formwork
