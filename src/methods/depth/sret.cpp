#include "methods/channel/channel.h"
#include "methods/depth/depth.h"
#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

struct SretOptions {
  std::optional<int64_t> shared_blocks;
  int64_t recursions = 2;
  bool nll = true;
  double nll_ratio = 1.0;
  std::string residual_coefficients = "scalar";
  double coef_init = 1.0;
  bool as_released = false;
  void describe(OptionSet& o) {
    o.add("shared_blocks", shared_blocks,
          "sets of parameters; absent = model.depth / recursions, which it must be", at_least(1));
    o.add("recursions", recursions, "times in a row that a block is applied; 1 = no sharing",
          at_least(1));
    o.add("nll", nll, "after each application a small layer of its own (non-linear projection)");
    o.add("nll_ratio", nll_ratio, "its hidden channels, as a multiple of model.width", above(0));
    o.add("residual_coefficients", residual_coefficients,
          "scalar: trained numbers on its two summands; those of blocks: model.wiring = \"scaled\"",
          one_of({"none", "scalar"}));
    o.add("coef_init", coef_init, "start of those numbers");
    o.add("as_released", as_released,
          "mixers take every second application for a recursion, as in the authors' program; the "
          "same with 2 recursions");
  }
};

/// x ← c1·x + c2·MLP(Norm(x)), or without c1 and c2: what one application does not share.
class NonLinearProjection final : public Module {
 public:
  NonLinearProjection(const SretOptions& options, const Site& site) {
    const auto hidden = static_cast<int64_t>(options.nll_ratio * static_cast<double>(site.width));
    check(hidden >= 1, "model.depth_plan.nll_ratio", "found ", options.nll_ratio, " with width ",
          site.width, "; valid: a ratio that gives at least one hidden channel");
    Site here = site;
    here.dropout = 0.0;
    ffn_ = add_module("ffn", Choice<Channel>("mlp").set({{"hidden", Value(hidden)}}).make(here));
    Choice<Wiring> wiring("pre");
    if (options.residual_coefficients == "scalar") {
      wiring = Choice<Wiring>("scaled");
      wiring.set({{"coef_init", Value(options.coef_init)}});
    }
    wiring_ = add_module("", wiring.make(here));
  }

  void forward(Stream& stream, const std::string& place) {
    run_sublayer(stream, *wiring_, place,
                 [&](const Tensor& x) { return ffn_->forward(x, stream); });
  }

 private:
  std::shared_ptr<Channel> ffn_;
  std::shared_ptr<Wiring> wiring_;
};

/// Sliced Recursive Transformer: model.depth = shared_blocks · recursions applications, each block
/// several times in a row, and after every application a small layer that none shares:
/// x ← NLL_i(block_{i / recursions}(x)). With mixer sliced and wiring scaled it is the paper's.
/// Parameters: those of the blocks and, for each application, 2·D·h + h + D for h = nll_ratio · D
/// rounded down, its norm and two numbers. Thousands of applications fit in memory with
/// train.activation_checkpointing. Deviation: mixers are told an application is a recursion where
/// its block has been applied before; as_released counts every second application instead.
/// The released backbone of images in three stages (stem and downsampling by convolutions) is not
/// built: this is one of its stages. Shen, Liu, Xing 2021, arXiv 2111.05297.
class Sret final : public Depth {
 public:
  Sret(const SretOptions& options, const Site& site) : options_(options) {
    const int64_t times = options.recursions;
    check(site.depth % times == 0, "model.depth_plan.recursions", "found ", times,
          ", which does not divide model.depth = ", site.depth, "; valid: a divisor of it");
    blocks_ = options.shared_blocks.value_or(site.depth / times);
    check(blocks_ * times == site.depth, "model.depth_plan.shared_blocks", "found ", blocks_,
          " with ", times, " recursions, but model.depth = ", site.depth,
          "; valid: ", site.depth / times, ", or model.depth = ", blocks_ * times);
    if (!options.nll) return;
    for (int64_t i = 0; i < site.depth; ++i) {
      const std::string name = join_text("nll", i);
      Site here = site;
      here.name = "depth." + name;
      here.random = site.random.child(here.name);
      own_.push_back(add_module(name, std::make_shared<NonLinearProjection>(options, here)));
    }
  }

  DepthPlan plan(int64_t depth) const override {
    DepthPlan plan{blocks_, {}};
    for (int64_t i = 0; i < depth; ++i) plan.order.push_back(i / options_.recursions);
    return plan;
  }

  void apply(Stream& stream, int64_t i, const std::function<void()>& block) override {
    stream.recursion = i % (options_.as_released ? 2 : options_.recursions);
    block();
    if (!own_.empty())
      own_[static_cast<size_t>(i)]->forward(stream, join_text("layers.", i, ".nll"));
  }
  Module* part(int64_t i) override {
    return own_.empty() ? nullptr : own_[static_cast<size_t>(i)].get();
  }

 private:
  SretOptions options_;
  int64_t blocks_ = 1;
  std::vector<std::shared_ptr<NonLinearProjection>> own_;  // an application
};

const Register<Depth, Sret, SretOptions> sret{
    "sret", "each block several times in a row, with a small unshared layer after every time",
    cite("2111.05297"), specified_by("sret")};

}  // namespace
}  // namespace formwork
