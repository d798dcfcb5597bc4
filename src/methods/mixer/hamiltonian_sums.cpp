#include "methods/mixer/hamiltonian_sums.h"

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTileNumbers = 1 << 18;  // weights at once: they should stay in the cache
constexpr int64_t kLeastQueries = 16;
// So few weights wait for the gradient instead of being computed again: they save a product.
constexpr int64_t kKeptNumbers = 1 << 20;

Tensor turned(const Tensor& matrices) {
  return matrices.transpose(-2, -1);
}

/// The weights of some queries.
struct WeightTile {
  int64_t from, count;  // the queries
  int64_t keys;         // keys 0 to keys - 1 can have a weight
  Tensor all;           // [B,count,keys] E
  Tensor free;          // E, 0 where the score is cut; the same tensor where none is
};

/// Walks over the queries.
class WeightTiles {
 public:
  /// `saved`: what a walk before this one has kept, from its entry `first` on.
  WeightTiles(const Tensor& x, const Tensor& u, const PairRule& rule,
              const variable_list& saved = {}, size_t first = 0)
      : x_(x), turned_u_(turned(u)), rule_(rule), saved_(saved), first_(first) {
    keeps_ = x.size(0) * x.size(1) * u.size(1) <= kKeptNumbers;
    cuts_ = saved.size() <= first && may_cut(x, u);
    const int64_t row = std::max<int64_t>(1, x.size(0) * u.size(1));
    step_ = std::max(kLeastQueries, kTileNumbers / row);
  }

  void each(const std::function<void(const WeightTile&)>& visit) const {
    size_t next = first_;
    for (int64_t from = 0; from < x_.size(1); from += step_) {
      const int64_t count = std::min(step_, x_.size(1) - from);
      if (saved_.size() > next)
        visit({from, count, saved_[next].size(2), saved_[next], saved_[next + 1]});
      else
        visit(tile(from, count));
      next += 2;
    }
  }

  /// Adds the tile to what a later walk is given, where all of them are few numbers.
  void keep(const WeightTile& t, variable_list& saved) const {
    if (keeps_) saved.insert(saved.end(), {t.all, t.free});
  }

 private:
  /// By Cauchy-Schwarz; elsewhere than on the CPU a look at the numbers would stall the device.
  static bool may_cut(const Tensor& x, const Tensor& u) {
    if (!x.device().is_cpu() || x.numel() == 0 || u.numel() == 0) return true;
    const auto longest = [](const Tensor& rows) {
      return at::linalg_vector_norm(rows, 2, at::IntArrayRef{-1}).max().item<double>();
    };
    return !(longest(x) * longest(u) <= kLargestScore);
  }

  WeightTile tile(int64_t from, int64_t count) const {
    const int64_t all_keys = turned_u_.size(2), offset = all_keys - x_.size(1);
    WeightTile t{from, count, rule_.causal ? from + count + offset : all_keys, {}, {}};
    Tensor scores = at::bmm(x_.narrow(1, from, count), turned_u_.narrow(2, 0, t.keys));
    Tensor cut;
    if (cuts_) {
      cut = scores.abs() > kLargestScore;
      scores.clamp_(-kLargestScore, kLargestScore);
    }
    t.all = scores.exp_();
    if (rule_.causal) {
      // Only the last square holds pairs of both kinds.
      const Tensor seen = at::ones({count, count}, t.all.options()).tril_();
      t.all.narrow(2, t.keys - count, count).mul_(seen);
    }
    if (rule_.key_valid.defined()) t.all.mul_(rule_.key_valid.narrow(1, 0, t.keys).unsqueeze(1));
    if (rule_.allowed.defined()) t.all.mul_(rule_.allowed.narrow(1, from, count));
    t.free = cuts_ ? t.all.masked_fill(cut, 0) : t.all;
    return t;
  }

  Tensor x_, turned_u_;
  PairRule rule_;
  variable_list saved_;
  size_t first_;
  bool keeps_, cuts_;
  int64_t step_;
};

void save_rule(AutogradContext* context, const PairRule& rule) {
  context->saved_data["causal"] = rule.causal;
  if (rule.key_valid.defined()) context->saved_data["key_valid"] = rule.key_valid;
  if (rule.allowed.defined()) context->saved_data["allowed"] = rule.allowed;
}

PairRule saved_rule(AutogradContext* context) {
  const auto tensor = [&](const char* name) {
    const auto found = context->saved_data.find(name);
    return found == context->saved_data.end() ? Tensor() : found->second.toTensor();
  };
  return {context->saved_data["causal"].toBool(), tensor("key_valid"), tensor("allowed")};
}

struct SumsOfExponentials : torch::autograd::Function<SumsOfExponentials> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const Tensor& u,
                               const Tensor& v, const PairRule& rule, bool keep_cut) {
    variable_list saved{x, u, v};
    context->saved_data["keep_cut"] = keep_cut;
    save_rule(context, rule);
    const Tensor total = at::empty({x.size(0), x.size(1), 1}, x.options());
    const Tensor y = at::empty({x.size(0), x.size(1), v.size(2)}, x.options());
    const WeightTiles tiles(x, u, rule);
    tiles.each([&](const WeightTile& t) {
      total.narrow(1, t.from, t.count).copy_(t.all.sum(-1, true));
      if (v.size(2) > 0)
        y.narrow(1, t.from, t.count)
            .copy_(at::bmm(keep_cut ? t.all : t.free, v.narrow(1, 0, t.keys)));
      tiles.keep(t, saved);
    });
    context->save_for_backward(saved);
    return {total, y};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &u = saved[1], &v = saved[2];
    const bool keep_cut = context->saved_data["keep_cut"].toBool();
    const Tensor of_total = gradients[0], of_y = gradients[1];
    const Tensor of_x = at::empty_like(x), of_u = at::zeros_like(u), of_v = at::zeros_like(v);
    WeightTiles(x, u, saved_rule(context), saved, 3).each([&](const WeightTile& t) {
      Tensor slope = of_total.narrow(1, t.from, t.count).expand_as(t.all);
      if (v.size(2) > 0) {
        const Tensor here = of_y.narrow(1, t.from, t.count);
        slope = at::baddbmm(slope, here, turned(v.narrow(1, 0, t.keys)));
        of_v.narrow(1, 0, t.keys).baddbmm_(turned(keep_cut ? t.all : t.free), here);
        slope.mul_(t.free);
      } else {
        slope = slope * t.free;
      }
      of_x.narrow(1, t.from, t.count).copy_(at::bmm(slope, u.narrow(1, 0, t.keys)));
      of_u.narrow(1, 0, t.keys).baddbmm_(turned(slope), x.narrow(1, t.from, t.count));
    });
    return {of_x, of_u, of_v, Tensor(), Tensor()};
  }
};

/// What each query contributes to the force.
struct QueryFactors {
  Tensor z, open, s, w;  // [B,q,1]; open: 1 where z is above the floor

  QueryFactors(const Tensor& total, const Tensor& q, const Tensor& n, double floor,
               bool potential) {
    const Tensor mean = total / n;
    z = mean.clamp_min(floor);
    open = (mean > floor).to(total.scalar_type());
    s = q / z / z * open;  // not q / z²: its square may overflow
    w = (s / n + (potential ? 1.0 : 0.0)) * 0.5;
  }
};

struct SumsOfForce : torch::autograd::Function<SumsOfForce> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const Tensor& u,
                               const Tensor& q, const Tensor& n, const ForceRule& rule) {
    save_rule(context, rule.pairs);
    context->saved_data["floor"] = rule.floor;
    context->saved_data["potential"] = rule.potential;
    const Tensor total = at::empty_like(q), plain = at::empty_like(x);
    const Tensor columns = at::zeros_like(u);
    variable_list saved{x, u, q, n, total, plain};
    const WeightTiles tiles(x, u, rule.pairs);
    tiles.each([&](const WeightTile& t) {
      const auto here = [&](const Tensor& tensor) { return tensor.narrow(1, t.from, t.count); };
      here(total).copy_(t.all.sum(-1, true));
      here(plain).copy_(at::bmm(t.free, u.narrow(1, 0, t.keys)));
      const QueryFactors factors(here(total), here(q), here(n), rule.floor, rule.potential);
      columns.narrow(1, 0, t.keys).baddbmm_(turned(t.free), factors.w * here(x));
      tiles.keep(t, saved);
    });
    context->save_for_backward(saved);
    const QueryFactors factors(total, q, n, rule.floor, rule.potential);
    return {factors.z, factors.w * plain, columns};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &u = saved[1], &q = saved[2], &n = saved[3], &plain = saved[5];
    const Tensor &of_z = gradients[0], &of_rows = gradients[1], &of_columns = gradients[2];
    const QueryFactors factors(saved[4], q, n, context->saved_data["floor"].toDouble(),
                               context->saved_data["potential"].toBool());
    // dE_ij = [w g_i, w x_i]·[u_j, c_j] + dtotal_i with g of the rows and c of the columns.
    const Tensor scaled = factors.w * of_rows;
    const Tensor left = at::cat({scaled, factors.w * x}, 2), right = at::cat({u, of_columns}, 2);
    const Tensor of_x = at::empty_like(x), of_u = at::zeros_like(u), of_q = at::empty_like(q);
    WeightTiles(x, u, saved_rule(context), saved, 6).each([&](const WeightTile& t) {
      const auto here = [&](const Tensor& tensor) { return tensor.narrow(1, t.from, t.count); };
      const auto seen = [&](const Tensor& tensor) { return tensor.narrow(1, 0, t.keys); };
      const Tensor through = at::bmm(t.free, seen(of_columns));
      const Tensor of_w =
          (here(of_rows) * here(plain) + here(x) * through).sum(-1, true) * here(factors.open);
      const Tensor of_s = 0.5 * of_w / here(n), z = here(factors.z);
      here(of_q).copy_(of_s / z / z);
      const Tensor of_total =
          here(factors.open) * (here(of_z) - 2.0 * of_s * here(factors.s) / z) / here(n);
      const Tensor slope =
          at::baddbmm(of_total.expand_as(t.free), here(left), turned(seen(right))).mul_(t.free);
      here(of_x).copy_(at::bmm(slope, seen(u))).add_(here(factors.w) * through);
      seen(of_u).baddbmm_(turned(slope), here(x)).baddbmm_(turned(t.free), here(scaled));
    });
    return {of_x, of_u, of_q, Tensor(), Tensor()};
  }
};

}  // namespace

ExponentialSums exponential_sums(const Tensor& x, const Tensor& u, const Tensor& v,
                                 const PairRule& rule, CutPairs cut) {
  const Tensor values = v.defined() ? v : u.narrow(2, 0, 0);
  const auto sums = SumsOfExponentials::apply(x, u, values, rule, cut == CutPairs::kept);
  return {sums[0], v.defined() ? sums[1] : Tensor()};
}

ForceSums force_sums(const Tensor& x, const Tensor& u, const Tensor& q, const Tensor& n,
                     const ForceRule& rule) {
  const auto sums = SumsOfForce::apply(x, u, q, n.expand_as(q), rule);
  return {sums[0], sums[1], sums[2]};
}

}  // namespace formwork
