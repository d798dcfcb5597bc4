#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "methods/mixer/mixer.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

struct SlicedOptions {
  int64_t groups1 = 1;
  int64_t groups2 = 1;
  std::string permutation = "random_train_fixed_eval";
  int64_t seed = 1;
  std::vector<int64_t> order;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("groups1", groups1,
          "groups of neighbouring tokens where a block is applied for the first time; each token "
          "sees its group only",
          at_least(1));
    o.add("groups2", groups2,
          "groups where the depth plan applies a block again, after the permutation", at_least(1));
    o.add("permutation", permutation,
          "of the tokens before they are cut into groups2: drawn in every pass (random: in "
          "inference too, as in the authors' program), fixed, each groups2-th token to one group "
          "(stride), or as `order` says (given)",
          one_of({"random_train_fixed_eval", "random", "fixed", "stride", "given"}));
    o.add("seed", seed, "of fixed permutations", at_least(0));
    o.add("order", order,
          "with permutation given: the tokens from 0 in their new order; several orders one after "
          "the other serve one recursion after the other",
          at_least(0));
    o.add("bias", bias, "biases in the four linear maps");
    o.require(
        "order", [this] { return (permutation == "given") == !order.empty(); },
        "belongs to permutation = \"given\"; valid: both or neither");
  }
};

/// Rows of x [B,N,...] in another order; the gradient goes back by the inverse order.
struct Reorder : torch::autograd::Function<Reorder> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& order, const Tensor& inverse) {
    context->save_for_backward({order, inverse});
    return x.index_select(1, order);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    return {Reorder::apply(gradients[0], saved[1], saved[0]), Tensor(), Tensor()};
  }
};

/// How the tokens of a sequence are dealt to groups of equal size.
struct Groups {
  int64_t batch = 1, count = 1;
  Tensor order;  // [N] the tokens group after group, ascending within each; undefined: as they are
  Tensor inverse;  // [N]

  /// x [B,N,...] → [B·G,N/G,...].
  Tensor fold(const Tensor& x) const {
    const Tensor dealt = order.defined() ? Reorder::apply(x, order, inverse) : x;
    return dealt.unflatten(1, {count, dealt.size(1) / count}).flatten(0, 1);
  }
  /// The other way.
  Tensor unfold(const Tensor& y) const {
    const Tensor dealt = y.unflatten(0, {batch, count}).flatten(1, 2);
    return order.defined() ? Reorder::apply(dealt, inverse, order) : dealt;
  }
};

/// Shows an observer of the model what the groups compute as parts of the whole sequence.
class WholeSequence final : public SelectiveObserver {
 public:
  WholeSequence(const Groups& groups, Observer* to) : groups_(groups), to_(to) {}
  bool wants(const std::string& point) const override { return wanted(to_, point); }

  void see(const std::string& point, const Tensor& tensor) override {
    if (!wants(point)) return;
    if (point.ends_with(".scores"))
      to_->see(point, pairs(tensor, -std::numeric_limits<double>::infinity()));
    else if (point.ends_with(".attention"))
      to_->see(point, pairs(tensor, 0.0));
    else if (point.ends_with(".output"))
      to_->see(point, groups_.unfold(tensor));
    else  // queries, keys, values [B·G,H,N/G,K]
      to_->see(point, groups_.unfold(tensor.transpose(1, 2)).transpose(1, 2));
  }

 private:
  /// [B·G,H,N/G,N/G] → [B,H,N,N], `apart` for tokens of different groups.
  Tensor pairs(const Tensor& inside, double apart) const {
    const int64_t count = groups_.count, heads = inside.size(1), size = inside.size(2);
    Tensor all =
        at::full({groups_.batch, heads, count, size, count, size}, apart, inside.options());
    all.diagonal(0, 2, 4).copy_(
        inside.unflatten(0, {groups_.batch, count}).permute({0, 2, 3, 4, 1}));
    all = all.view({groups_.batch, heads, count * size, count * size});
    if (!groups_.order.defined()) return all;
    return all.index_select(2, groups_.inverse).index_select(3, groups_.inverse);
  }

  const Groups& groups_;
  Observer* to_;
};

/// Sliced group self-attention: softmax attention within each of G groups of N/G tokens, 2·N²·D/G
/// operations for the N²·D·2 of all pairs. Where a block is applied for the first time the groups
/// are groups1 stretches of neighbours; where depth plan sret applies it again, groups2 groups of
/// permuted tokens, so that all meet in time. One group is ordinary attention, without permutation.
/// The groups go into the batch: tokens are reordered once before the maps and back after them,
/// which gives the same as around the attention alone. A causal model keeps the order of the
/// original positions within a group, but decodes only without groups; positions are those of the
/// whole sequence. Groups of padded rows are cut by the padded length.
/// Deviation: inference uses fixed permutations, not new random ones, unless permutation = random.
/// Shen, Liu, Xing 2021, arXiv 2111.05297.
class Sliced final : public Mixer {
 public:
  Sliced(const SlicedOptions& options, Site& site)
      : options_(options),
        fixed_(RandomStream(static_cast<uint64_t>(options.seed))
                   .child(static_cast<uint64_t>(site.layer))),
        attention_(add_module(
            "", Choice<Mixer>("softmax").set({{"bias", Value(options.bias)}}).make(site))) {
    check(!site.cross, "mixer.kind", "'sliced' cannot read another sequence; valid: softmax");
    if (site.length > 0) {
      check_groups("groups1", site.length, options.groups1);
      check_groups("groups2", site.length, options.groups2);
    }
  }
  static Traits traits(const SlicedOptions& o) {
    return {.rotary = true, .bias = true, .equivariant = o.groups1 == 1 && o.groups2 == 1};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    const bool again = stream.recursion > 0;
    const int64_t n = x.size(1);
    Groups groups{x.size(0), again ? options_.groups2 : options_.groups1, {}, {}};
    if (groups.count == 1) return attention_->forward(x, stream, state);
    check(!state, kOwner, kNoDecoding);
    check_groups(again ? "groups2" : "groups1", n, groups.count);
    if (again) {
      const Tensor dealt = permutation_of(n, stream.recursion).view({groups.count, -1});
      // Ascending within a group: nothing changes, and the past stays in front.
      groups.order = std::get<0>(dealt.sort(-1)).flatten().to(x.device());
      groups.inverse = groups.order.argsort();
    }
    return in_groups(x, stream, groups);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    check(options_.groups1 == 1 && options_.groups2 == 1, kOwner, kNoDecoding);
    return attention_->make_state(batch, capacity, type, device);
  }

 private:
  static constexpr const char* kOwner = "mixer sliced";
  static constexpr const char* kNoDecoding =
      "groups are cut from a whole sequence, so a model with them cannot decode token by token; "
      "valid: groups1 = groups2 = 1";

  static void check_groups(const char* key, int64_t n, int64_t groups) {
    check(n % groups == 0, std::string("model.mixer.") + key, "found ", groups, ", but there are ",
          n, " tokens (a class token counts); valid: a divisor of their number");
  }

  /// [N] on the CPU.
  Tensor permutation_of(int64_t n, int64_t recursion) const {
    const std::string& kind = options_.permutation;
    if (kind == "stride") return at::arange(n).view({-1, options_.groups2}).t().reshape({-1});
    if (kind == "given") return given(n, recursion);
    if (kind == "random" || (kind == "random_train_fixed_eval" && training()))
      return at::randperm(n, at::kLong);
    return at::tensor(permutation(
        n, fixed_.child(static_cast<uint64_t>(recursion)).child(static_cast<uint64_t>(n))));
  }

  Tensor given(int64_t n, int64_t recursion) const {
    const auto all = static_cast<int64_t>(options_.order.size());
    check(all % n == 0, "model.mixer.order", "found ", all, " numbers for ", n,
          " tokens; valid: a multiple of them");
    const int64_t which = (recursion - 1) % (all / n);
    const Tensor chosen = at::tensor(options_.order).narrow(0, which * n, n);
    check(at::equal(std::get<0>(chosen.sort()), at::arange(n)), "model.mixer.order",
          "does not name each of ", n, " tokens once; valid: a permutation of 0 to ", n - 1);
    return chosen;
  }

  Tensor in_groups(const Tensor& x, const Stream& stream, const Groups& groups) const {
    Stream inside;
    WholeSequence whole(groups, stream.observer);
    if (stream.observer) inside.observer = &whole;
    inside.place = stream.place;
    const Tensor positions = positions_of(stream, x, nullptr);
    inside.positions = groups.fold(positions.expand({x.size(0), x.size(1)}));
    if (stream.valid.defined()) inside.valid = groups.fold(stream.valid);
    return groups.unfold(attention_->forward(groups.fold(x), inside, nullptr));
  }

  SlicedOptions options_;
  RandomStream fixed_;  // of permutations
  std::shared_ptr<Mixer> attention_;
};

const Register<Mixer, Sliced, SlicedOptions> sliced{
    "sliced", "softmax attention within groups of tokens, permuted where a block recurs",
    cite("2111.05297"), specified_by("sret")};

}  // namespace
}  // namespace formwork
