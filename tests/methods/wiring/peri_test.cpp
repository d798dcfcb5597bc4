// How streams grow and how large gradients can become under each placement of norms: specification
// peri_ln, with the placements themselves and real norms.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "methods/wiring/wiring.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

Tensor normal(at::IntArrayRef shape, const RandomStream& stream) {
  return normal_tensor(shape, 1.0, stream).to(at::kDouble);
}

double largest(const Tensor& x) {
  return x.abs().max().item<double>();
}

std::shared_ptr<Wiring> placed(const std::string& wiring, const std::string& norm, int64_t width,
                               const Table& options = {}) {
  Site site = plain_site(width);
  site.make_norm = [&](int64_t norm_width) {
    NormSite where;
    where.width = norm_width;
    return Choice<Norm>(norm).set({{"eps", Value(1e-30)}}).make(where);
  };
  const auto made = Choice<Wiring>(wiring).set(options).make(site);
  made->to(at::kDouble);
  return made;
}

/// The largest |dL/dW2| of one token whose branch is a = W2 h + b2, under a placement.
struct Branch {
  std::string norm;
  Tensor x, hidden, w2, b2, gamma;
  Tensor target;

  double gradient(const std::string& wiring) const {
    const auto made = placed(wiring, norm, x.size(1));
    const auto own = made->named_tensors();
    if (own.count("norm_out.weight") > 0) {
      const c10::NoGradGuard no_grad;
      Tensor(own.at("norm_out.weight")).copy_(gamma);
    }
    const Tensor weight = w2.clone().requires_grad_(true);
    Stream stream;
    stream.x = x.unsqueeze(0);
    made->forward(stream,
                  [&](const Tensor&) { return at::linear(hidden, weight, b2).unsqueeze(0); });
    at::cross_entropy_loss(stream.x.squeeze(0), target).backward();
    return largest(weight.grad());
  }
  /// Proposition 3.1 with a constant of 4, or sqrt 2, which |p - y|₂ <= sqrt 2 allows.
  double bound(double constant) const {
    Tensor a = at::linear(hidden, w2, b2);
    if (norm == "layer_norm") a = a - a.mean(-1, true);
    const double width = static_cast<double>(x.size(1));
    return constant * largest(gamma) * std::sqrt(width) * (hidden.norm() / a.norm()).item<double>();
  }
};

Branch draw(int64_t i, double scale) {
  const RandomStream stream = RandomStream(21).child(static_cast<uint64_t>(i));
  const int64_t width = 2 + i % 9, inner = 3 + i % 14;
  Branch branch;
  branch.norm = i % 2 == 0 ? "rms_norm" : "layer_norm";
  branch.x = normal({1, width}, stream.child("x")) * (1.0 + static_cast<double>(i % 5));
  branch.hidden = normal({1, inner}, stream.child("h")).relu() * scale + 1e-3;
  branch.w2 = normal({width, inner}, stream.child("w"));
  branch.b2 = normal({width}, stream.child("b"));
  branch.gamma = normal({width}, stream.child("gamma"));
  branch.target = at::full({1}, i % width, at::kLong);
  return branch;
}

TEST(property, peri_ln_gradient_is_bounded) {
  double pre = 0.0, peri = 0.0;
  for (int64_t i = 0; i < 1000; ++i) {
    const double scale = std::pow(10.0, static_cast<double>(i % 5) - 2.0);
    const Branch branch = draw(i, scale);
    const double gradient = branch.gradient("peri");
    ASSERT_LE(gradient, branch.bound(std::sqrt(2.0)) * (1 + 1e-9)) << i;
    ASSERT_LE(gradient, branch.bound(4.0)) << i;
    if (scale < 100) continue;
    peri = std::max(peri, gradient);
    pre = std::max(pre, branch.gradient("pre"));
  }
  EXPECT_GT(pre, 10 * peri) << "massive activations reach the gradient of pre only";
}

/// The mean variance over channels of a stream, after each of `layers` sublayers that are random
/// matrices of `scale`; the first entry is the start.
std::vector<double> variances(const std::string& wiring, const std::string& norm, double scale,
                              int64_t layers, std::vector<double>* rms = nullptr) {
  const c10::NoGradGuard no_grad;
  const int64_t width = 128;
  const RandomStream random(31);
  Stream stream;
  stream.x = normal({1, 64, width}, random.child("x"));
  std::vector<double> all;
  const auto look = [&] {
    all.push_back(stream.x.var({-1}, 0).mean().item<double>());
    if (rms) rms->push_back(stream.x.square().mean(-1).sqrt().max().item<double>());
  };
  look();
  for (int64_t l = 0; l < layers; ++l) {
    const Tensor weight = normal({width, width}, random.child(static_cast<uint64_t>(l))) *
                          (scale / std::sqrt(static_cast<double>(width)));
    stream.layer_input = stream.x;
    placed(wiring, norm, width)->forward(stream, [&](const Tensor& x) {
      return at::linear(x, weight);
    });
    look();
  }
  return all;
}

TEST(property, peri_ln_variance_grows_by_one_a_sublayer) {
  const int64_t layers = 24;
  for (const double scale : {1.0, 1e3}) {
    for (const char* wiring : {"peri", "sandwich", "output"}) {
      const std::vector<double> seen = variances(wiring, "rms_norm", scale, layers);
      for (size_t l = 0; l < seen.size(); ++l)
        EXPECT_NEAR(seen[l], 1.0 + static_cast<double>(l), 0.2 * (1.0 + static_cast<double>(l)))
            << wiring << " after " << l;
    }
    // Without a norm on the branch its own variance is what is added, or multiplied with.
    const std::vector<double> pre = variances("pre", "rms_norm", scale, layers);
    EXPECT_NEAR(pre.back() / (1.0 + scale * scale * layers), 1.0, 0.25);
    EXPECT_NEAR(variances("post", "rms_norm", scale, layers).back(), 1.0, 0.05);
    EXPECT_GT(variances("none", "none", scale, layers).back(), 1e6);
  }
}

TEST(property, peri_ln_stream_has_a_linear_worst_case) {
  for (const char* norm : {"rms_norm", "layer_norm"}) {
    for (const double scale : {1.0, 1e3}) {
      std::vector<double> rms;
      variances("peri", norm, scale, 24, &rms);
      for (size_t l = 1; l < rms.size(); ++l) EXPECT_LE(rms[l], rms[l - 1] + 1.0 + 1e-12) << norm;
    }
  }
  std::vector<double> pre;
  variances("pre", "rms_norm", 1e3, 1, &pre);
  EXPECT_GT(pre[1], pre[0] + 100.0);
}

/// A norm that is learned and starts elsewhere bounds the branch by its own gamma.
TEST(property, peri_ln_gamma_out) {
  const c10::NoGradGuard no_grad;
  const auto peri = placed("peri", "rms_norm", 8, {{"gamma_out_init", Value(0.25)}});
  Stream stream;
  stream.x = at::zeros({1, 3, 8}, at::kDouble);
  peri->forward(stream, [](const Tensor& x) { return normal(x.sizes(), RandomStream(4)) * 1e3; });
  EXPECT_NEAR(largest(stream.x.square().mean(-1).sqrt() - 0.25), 0.0, 1e-12);
  const auto frozen = placed("peri", "rms_norm", 8, {{"learn_gamma_out", Value(false)}});
  int64_t learned = 0;
  for (const Parameter& parameter : frozen->parameters())
    learned += parameter.tensor.requires_grad() ? 1 : 0;
  EXPECT_EQ(learned, 1) << "norm_in only";
}

std::map<std::string, Tensor> tensors_of(const std::string& attention, const std::string& channel) {
  const TaskForm task = token_task("decoder");
  const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
    o.every_layer.wiring.select(attention, "wiring");
    o.every_layer.channel_wiring.select(channel, "channel_wiring");
  });
  validate(options, task);
  return Model(options, task, 3).named_tensors();
}

TEST(property, peri_ln_placements_of_one_layer_may_differ) {
  struct Expected {
    const char *attention, *channel;
    bool embed_norm, final_norm;
  };
  const Expected all[] = {{"peri", "peri", true, true},       {"peri", "pre", false, true},
                          {"pre", "post", false, false},      {"post", "pre", false, true},
                          {"none", "none", false, false},     {"b2t", "b2t", false, false},
                          {"sandwich", "output", false, true}};
  for (const Expected& e : all) {
    const auto tensors = tensors_of(e.attention, e.channel);
    SCOPED_TRACE(std::string(e.attention) + ", " + e.channel);
    EXPECT_EQ(tensors.count("embed_norm.weight") > 0, e.embed_norm);
    EXPECT_EQ(tensors.count("final_norm.weight") > 0, e.final_norm);
  }
  expect_error([] { tensors_of("b2t", "pre"); }, Fault::request, {"b2t", "both sublayers"});
  expect_error([] { tensors_of("pre", "b2t"); }, Fault::request, {"b2t", "both sublayers"});
}

}  // namespace
}  // namespace formwork::test
