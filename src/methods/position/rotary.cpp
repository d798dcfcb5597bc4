#include "methods/position/rotary.h"

#include "kernels/rotate.h"
#include "methods/position/position.h"
#include "methods/position/position_cache.h"

namespace formwork {
namespace {

/// Turns pairs of channels of queries and keys by an angle that grows with the position, so that a
/// score depends on key minus query only. With s = 2c or c (style), (x_s, x_s') turns by p·g_c,
/// g_c = base^(-2c/d). Su et al. 2021, arXiv 2104.09864; scalings: Chen et al. 2023 (2306.15595),
/// bloc97 2023 (NTK-aware), Peng et al. 2023 (2309.00071). With scaling dynamic the frequencies
/// follow the longest position of each call: keys cached before the sequence outgrew
/// original_length keep their rotation, so decoding then differs from one pass over all tokens.
class Rotary final : public Position {
 public:
  Rotary(const RotaryOptions& options, const PositionSite& site)
      : options_(options), dim_(options.rotary_dim.value_or(site.head_width)) {
    check(dim_ >= 2 && dim_ % 2 == 0 && dim_ <= site.head_width, "position.rotary_dim", "found ",
          dim_, " for heads of width ", site.head_width,
          "; valid: an even number from 2 to the heads' width");
    check(options.columns == 0 || dim_ % 4 == 0, "position.rotary_dim", "found ", dim_,
          " with position.columns; valid: a multiple of 4 for a grid");
  }
  static Traits traits(const RotaryOptions&) { return {.rotates = true}; }

  Tensor rotate(const Tensor& x, const Tensor& positions) override {
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto tables =
        cache_.find({positions}, type, [&] { return make_tables(positions, type); });
    const Pairing pairing = options_.style == "half" ? Pairing::half : Pairing::interleaved;
    if (options_.columns == 0) return rotate_pairs(x, tables[0], tables[1], pairing);
    const Tensor turned = x.narrow(-1, 0, dim_).unflatten(-1, {2, dim_ / 2});
    const Tensor grid = rotate_pairs(turned, tables[0], tables[1], pairing).flatten(-2);
    if (dim_ == x.size(-1)) return grid;
    return at::cat({grid, x.narrow(-1, dim_, x.size(-1) - dim_)}, -1);
  }

 private:
  /// Frequencies [d/2], or [B,1,d/2] where the rows' lengths tell them apart.
  Tensor frequencies(const Tensor& positions, int64_t dim) const {
    const auto tensor = [&](int64_t length) {
      return at::tensor(inverse_frequencies(options_, dim, length), at::kDouble)
          .to(positions.device());
    };
    if (options_.scaling != "dynamic" || positions.numel() == 0) return tensor(0);
    const Tensor lengths = positions.amax(-1).to(at::kDouble).ceil().to(at::kLong) + 1;
    if (lengths.dim() == 0) return tensor(lengths.item<int64_t>());
    std::vector<Tensor> rows;
    for (int64_t b = 0; b < lengths.size(0); ++b)
      rows.push_back(tensor(lengths[b].item<int64_t>()).unsqueeze(0));
    return at::stack(rows);
  }

  /// Cosines and sines, in float64 and then cast: [N,d/2] or [B,1,N,d/2]; on a grid one more
  /// dimension, [..., 2, d/4], before the last.
  std::vector<Tensor> make_tables(const Tensor& positions, at::ScalarType type) const {
    Tensor angles;
    if (options_.columns == 0) {
      angles = positions.to(at::kDouble).unsqueeze(-1) * frequencies(positions, dim_);
    } else {
      const Tensor places = at::stack({at::floor_divide(positions, options_.columns),
                                       at::remainder(positions, options_.columns)},
                                      -1);
      const Tensor rates = frequencies(positions, dim_ / 2);
      angles =
          places.to(at::kDouble).unsqueeze(-1) * (rates.dim() == 1 ? rates : rates.unsqueeze(1));
    }
    if (positions.dim() == 2) angles = angles.unsqueeze(1);
    const double factor = attention_factor(options_);
    return {(angles.cos() * factor).to(type), (angles.sin() * factor).to(type)};
  }

  RotaryOptions options_;
  int64_t dim_;
  PositionCache cache_;
};

const Register<Position, Rotary, RotaryOptions> rotary{
    "rotary", "queries and keys turned by their position", cite("2104.09864"),
    specified_by("position_baselines")};

}  // namespace
}  // namespace formwork
