#include "methods/oracle.h"
#include "methods/wiring/damping.h"
#include "methods/wiring/doubling.h"
#include "methods/wiring/momentum_tables.h"
#include "methods/wiring/scalars.h"
#include "methods/wiring/velocity.h"

namespace formwork {
namespace {

struct SympformerWiringOptions {
  std::string integrator = "exp_euler";
  std::optional<double> h;
  bool learn_h = true;
  DampingOptions damping;
  double xi = 0.5;
  double theta_max = 1.0;
  bool learn_xi = true;
  std::string momentum_norm = "end";
  std::string momentum_init = "zero";
  bool lookahead = false;
  std::string mlp_mode = "velocity";
  double scalar_rate = 10.0;

  void describe(OptionSet& o) {
    o.add("integrator", integrator,
          "how a layer steps: explicit Euler with a constant (plain_euler) or scheduled damping "
          "(euler), integrated exactly (exp_euler), the momentum first (presymp_euler); two steps "
          "of Adams and Bashforth (ab2), with damping taken out (etd_ab2); of second order by "
          "doubling, four evaluations (presymp, strang); first_order, without momentum, for any "
          "mixer",
          one_of({"plain_euler", "euler", "exp_euler", "presymp_euler", "ab2", "etd_ab2", "presymp",
                  "strang", "first_order"}));
    o.add("h", h,
          "step sizes of position and momentum at the start; absent: 0.3 for the Euler schemes and "
          "first_order, 0.01 for the others",
          above(0));
    o.add("learn_h", learn_h, "train the step sizes");
    damping.describe(o);
    o.add("xi", xi, "presymp, strang: strength of the turn of the two copies at the start",
          above(0));
    o.add("theta_max", theta_max, "presymp, strang: largest angle of that turn", above(0));
    o.add("learn_xi", learn_xi, "train that strength");
    o.add("momentum_norm", momentum_norm,
          "where the momentum is normed: at the end of the step, or in presymp and strang also "
          "after every change of it",
          one_of({"none", "end", "each_substep"}));
    o.add("momentum_init", momentum_init,
          "momentum before the first layer: zero, or token and position tables of its own, which "
          "the paper's linear models have",
          one_of({"zero", "token_table"}));
    o.add("lookahead", lookahead, "evaluate at x + mu p with a trained mu");
    o.add("mlp_mode", mlp_mode,
          "the channel's step: by a velocity of its own, by the momentum (p_vel), or plainly but "
          "looking ahead along the mixer's step (attn_vel); none: there is no channel, or it has "
          "another wiring",
          one_of({"velocity", "attn_vel", "p_vel", "none"}));
    o.add("scalar_rate", scalar_rate, "factor on the learning rate of the trained scalars",
          above(0));
  }

  bool momentum() const { return integrator != "first_order"; }
  bool doubling() const { return integrator == "presymp" || integrator == "strang"; }
  bool second_order() const { return doubling() || integrator == "ab2" || integrator == "etd_ab2"; }
  double step() const { return h.value_or(second_order() ? 0.01 : 0.3); }
};

// What the stream carries from sublayer to sublayer.
constexpr const char* kMomentum = "momentum";
constexpr const char* kClock = "momentum.clock";
constexpr const char* kLastFlow = "momentum.last_flow";
constexpr const char* kLastForce = "momentum.last_force";
constexpr const char* kBefore = "momentum.before";  // x before the mixer's step
constexpr const char* kStep = "momentum.step";      // its size
constexpr const char* kVelocity = "momentum.velocity";

constexpr double kSmallChange = 1e-8;
constexpr double kLeastTurn = 1e-4, kLargestTurn = 100.0;

/// One layer is one step of a damped flow of positions x and momenta p: dx = F, dp = G - alpha(t)
/// p, with F and G from a mixer that is an oracle (methods/oracle.h) at Norm_x(x), and alpha = eta'
/// of the damping (damping.h). Step sizes hX and hY are trained; the clock goes on by hX a layer
/// and takes no gradient. Then the channel pushes a velocity (velocity.h). Stein, Li, Steidl 2026
/// (SympFormer), arXiv 2603.16535. The released linear models take the layer's number for the time,
/// so that their first step starts at time 0 and has no derivative: here the clock starts at t0 > 0
/// for both kernels. presymp_euler, there for the linear kernel only, serves both.
class SympformerWiring final : public Wiring {
 public:
  SympformerWiring(const SympformerWiringOptions& options, const Site& site)
      : Wiring(site), options_(options), channel_(site.mixer_wiring && !site.cross) {
    const auto of_mixer = std::dynamic_pointer_cast<SympformerWiring>(site.mixer_wiring);
    if (channel_)
      build_channel(site, of_mixer.get());
    else
      build_flow(site);
  }
  static Traits traits(const SympformerWiringOptions& o) {
    Traits traits{.final_norm = true};
    traits.momentum = o.momentum();
    const bool twice = o.integrator == "presymp_euler" || o.integrator == "etd_ab2";
    traits.oracle_calls = o.doubling() ? 4 : twice ? 2 : 1;
    traits.oracle_positions = o.doubling() ? 4 : 1;
    return traits;
  }

  void forward(Stream& stream, const Sublayer& sublayer) override {
    const Sublayer branch = [&](const Tensor& x) {
      const Tensor y = sublayer(x);
      return y.defined() ? drop(y) : y;
    };
    if (channel_) {
      Tensor& velocity = stream.carried[options_.mlp_mode == "p_vel" ? kMomentum : kVelocity];
      Tensor along = options_.mlp_mode == "attn_vel"
                         ? (stream.x - stream.carried.at(kBefore)) / stream.carried.at(kStep)
                         : velocity;
      channel_step_->forward(stream, along, branch);
      if (options_.mlp_mode != "attn_vel") velocity = along;
      return;
    }
    stream.carried[kBefore] = stream.x;
    stream.carried[kStep] = as_positive(theta_x_).detach();
    if (options_.momentum())
      flow_step(stream, branch);
    else
      stream.x = add(stream, stream.x,
                     as_positive(theta_x_) * sublayer(norm_x_->forward(stream.x, stream.valid)));
  }

 private:
  void build_channel(const Site& site, const SympformerWiring* of_mixer) {
    check(options_.mlp_mode != "none", "model.wiring.sympformer.mlp_mode",
          "'none' beside model.channel; valid: model.channel = none, or another "
          "model.channel_wiring");
    check(options_.mlp_mode == "velocity" || of_mixer, "model.channel_wiring.sympformer.mlp_mode",
          "'", options_.mlp_mode,
          "' follows the step of the mixer's wiring sympformer; valid "
          "beside another model.wiring: velocity");
    check(options_.mlp_mode != "p_vel" || of_mixer->options_.momentum(),
          "model.wiring.sympformer.mlp_mode",
          "'p_vel' moves by the momentum, which integrator = first_order has not; valid: velocity, "
          "attn_vel");
    VelocityStepOptions step;
    step.scalar_rate = options_.scalar_rate;
    step.kept = options_.mlp_mode != "attn_vel";
    channel_step_ = add_module("", std::make_shared<VelocityStep>(step, site));
  }

  Tensor scalar(const char* name, const Tensor& raw, bool learn = true) {
    return add_parameter(name, raw, Role::other, options_.scalar_rate).requires_grad_(learn);
  }

  void build_flow(const Site& site) {
    const std::string& kind = options_.integrator;
    norm_x_ = add_module("norm_x", site.make_norm(site.width));
    const Tensor raw = raw_positive(options_.step());
    theta_x_ = scalar(kind == "strang" ? "theta_h" : "theta_hX", raw, options_.learn_h);
    if (!options_.momentum()) return;
    if (kind != "strang") theta_p_ = scalar("theta_hY", raw, options_.learn_h);
    if (options_.momentum_norm != "none")
      norm_p_ = add_module("norm_p", site.make_norm(site.width));
    if (kind == "plain_euler")
      kept_ = scalar("alpha.raw", raw_share(0.9), options_.damping.learn_eta);
    else
      damping_ = add_module("", std::make_shared<Damping>(options_.damping, options_.scalar_rate));
    if (options_.doubling()) {
      const double turn = 2.0 * options_.step() * options_.xi / options_.theta_max;
      xi_ = scalar("theta_xi_raw", raw_share(std::min(turn, 0.999)), options_.learn_xi);
    }
    if (options_.lookahead) ahead_ = scalar("mu_lookahead.raw", raw_share(0.001));
    if (options_.momentum_init == "token_table" && site.layer == 0)
      tables_ = add_module("momentum", std::make_shared<MomentumTables>(
                                           site, "model.wiring.sympformer.momentum_init"));
  }

  /// What a step works with.
  struct Step {
    Stream& stream;
    const Sublayer& branch;
    Tensor x, p;    // at its beginning
    Tensor t;       // the time then
    Tensor hx, hp;  // step sizes
    Tensor tick;    // hx without gradient, what the clock advances by
    Oracle call;
  };

  /// Evaluates the oracle at Norm_x(x), or that of x + mu p.
  FlowAndForce ask(Step& step, const Tensor& x, const Tensor& p) const {
    const Tensor at = ahead_.defined() ? x + as_share(ahead_) * p : x;
    return ask_at(step, norm_x_->forward(at, step.stream.valid), p, true, true);
  }
  static FlowAndForce ask_at(Step& step, const Tensor& normed, const Tensor& p, bool flow,
                             bool force) {
    step.call.p = p;
    step.call.want_flow = flow;
    step.call.want_force = force;
    step.stream.oracle = &step.call;
    const Tensor moved = step.branch(normed);
    step.stream.oracle = nullptr;
    ++step.call.call;
    return {moved, step.call.force};
  }

  void flow_step(Stream& stream, const Sublayer& branch) {
    std::map<std::string, Tensor>& carried = stream.carried;
    Tensor& p = carried[kMomentum];
    if (!p.defined()) p = tables_ ? tables_->start(stream) : at::zeros_like(stream.x);
    Tensor& clock = carried[kClock];
    if (!clock.defined())
      clock = at::full({}, options_.damping.t0, stream.x.options().dtype(at::kDouble));
    const Tensor hx = as_positive(theta_x_);
    Step step{stream,
              branch,
              stream.x,
              p,
              clock,
              hx,
              theta_p_.defined() ? as_positive(theta_p_) : hx,
              hx.detach(),
              {}};
    const auto [x, momentum] = stepped(step);
    stream.x = x;
    p = norm_p_ ? norm_p_->forward(momentum, stream.valid) : momentum;
    clock = clock + step.tick;
  }

  FlowAndForce stepped(Step& step) const {
    const std::string& kind = options_.integrator;
    if (kind == "presymp") return presymp(step);
    if (kind == "strang") return strang(step);
    if (kind == "presymp_euler") return presymp_euler(step);
    if (kind == "etd_ab2") return etd_ab2(step);
    const auto [flow, force] = ask(step, step.x, step.p);
    if (kind == "ab2") return ab2(step, flow, force);
    const Tensor x = step.x + step.hx * flow;
    if (kind == "plain_euler") return {x, as_share(kept_) * step.p + step.hp * force};
    if (kind == "euler") return {x, step.p + step.hp * (force - damping_->slope(step.t) * step.p)};
    // exp_euler: damped exactly over the step, the force constant.
    const Tensor change = damping_->change(step.t, step.hp), left = (-change).exp();
    const Tensor rate = change / step.hp.clamp_min(kSmallChange);
    const Tensor tiny = rate.abs() <= kSmallChange;
    const Tensor weight =
        at::where(tiny, step.hp, -at::expm1(-change) / at::where(tiny, at::ones_like(rate), rate));
    return {x, left * step.p + weight * force};
  }

  /// Kick, then damp, then move by the new momentum.
  FlowAndForce presymp_euler(Step& step) const {
    const Tensor at = ahead_.defined() ? step.x + as_share(ahead_) * step.p : step.x;
    const Tensor normed = norm_x_->forward(at, step.stream.valid);
    const Tensor force = ask_at(step, normed, step.p, false, true).second;
    const Tensor left = (-damping_->change(step.t, step.hp)).exp();
    const Tensor p = left * (step.p + step.hp * force);
    return {step.x + step.hx * ask_at(step, normed, p, true, false).first, p};
  }

  /// 1.5 now - 0.5 before, or now where there was no step before; remembers `now`.
  static Tensor extrapolated(Stream& stream, const char* name, const Tensor& now) {
    Tensor& last = stream.carried[name];
    const Tensor mean = last.defined() ? 1.5 * now - 0.5 * last : now;
    last = now;
    return mean;
  }

  FlowAndForce ab2(Step& step, const Tensor& flow, const Tensor& force) const {
    const Tensor damped = force - damping_->slope(step.t) * step.p;
    return {step.x + step.hx * extrapolated(step.stream, kLastFlow, flow),
            step.p + step.hp * extrapolated(step.stream, kLastForce, damped)};
  }

  /// In the momentum e^eta p, which is not damped.
  FlowAndForce etd_ab2(Step& step) const {
    const Tensor at = ahead_.defined() ? step.x + as_share(ahead_) * step.p : step.x;
    const Tensor normed = norm_x_->forward(at, step.stream.valid);
    const Tensor grown = damping_->eta(step.t).exp();
    const Tensor force = grown * ask_at(step, normed, step.p, false, true).second;
    const Tensor conserved =
        grown * step.p + step.hp * extrapolated(step.stream, kLastForce, force);
    const Tensor p = conserved / damping_->eta(step.t + step.tick).exp();
    return {step.x + step.hx * ask_at(step, normed, p, true, false).first, p};
  }

  DoublingStep doubling(Step& step, const Tensor& xi) const {
    DoublingStep made;
    made.half_x = 0.5 * step.hx;
    made.half_p = 0.5 * step.hp;
    made.angle = 2.0 * xi * step.hx;
    if (options_.momentum_norm == "each_substep")
      made.after = [this, &step](const Tensor& p) {
        return norm_p_->forward(p, step.stream.valid);
      };
    return made;
  }

  /// In the momentum e^eta p, by doubling.
  FlowAndForce presymp(Step& step) const {
    const Tensor xi =
        (options_.theta_max / (2.0 * step.hx) * as_share(xi_)).clamp(kLeastTurn, kLargestTurn);
    DoublingStep by = doubling(step, xi);
    by.oracle = [&](const Tensor& x, const Tensor& conserved, int ticks) {
      const Tensor eta = damping_->eta(step.t + 0.5 * ticks * step.tick);
      const FlowAndForce now = ask(step, x, (-eta).exp() * conserved);
      ++step.call.position;
      return FlowAndForce{now.first, eta.exp() * now.second};
    };
    const auto [x, conserved] = doubling_step(by, step.x, damping_->eta(step.t).exp() * step.p);
    return {x, (-damping_->eta(step.t + step.tick)).exp() * conserved};
  }

  /// Half the damping, a step without damping by doubling, half the damping.
  FlowAndForce strang(Step& step) const {
    const Tensor left = (-damping_->change(step.t, 0.5 * step.tick)).exp();
    DoublingStep by = doubling(step, options_.theta_max / (2.0 * step.hx) * as_share(xi_));
    by.oracle = [&](const Tensor& x, const Tensor& p, int) {
      const FlowAndForce now = ask(step, x, p);
      ++step.call.position;
      return now;
    };
    const auto [x, p] = doubling_step(by, step.x, left * step.p);
    return {x, left * p};
  }

  SympformerWiringOptions options_;
  bool channel_;
  std::shared_ptr<VelocityStep> channel_step_;
  std::shared_ptr<Norm> norm_x_, norm_p_;
  std::shared_ptr<Damping> damping_;
  std::shared_ptr<MomentumTables> tables_;
  Tensor theta_x_, theta_p_, kept_, xi_, ahead_;  // raw
};

const Register<Wiring, SympformerWiring, SympformerWiringOptions> sympformer_wiring{
    "sympformer", "a layer is a step of a damped flow with momentum, then a step of the channel",
    cite("2603.16535"), specified_by("sympformer")};

}  // namespace
}  // namespace formwork
