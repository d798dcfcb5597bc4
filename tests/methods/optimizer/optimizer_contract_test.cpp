// What every optimizer owes, whatever its formula.
#include <gtest/gtest.h>

#include <cmath>

#include "methods/constraint/constraint.h"
#include "methods/optimizer/optimizer_support.h"

namespace formwork {
namespace {

TEST(property, optimizer_baselines_maximize) {
  for (const std::string& kind : kinds()) {
    const OptimizerSite a = site_of(), b = site_of();
    const auto up = make(kind, a, {{"maximize", true}}), down = make(kind, b);
    for (int t = 0; t < 3; ++t) {
      give_gradients(a, t, -1.0);
      give_gradients(b, t, 1.0);
      up->step(1.0);
      down->step(1.0);
    }
    EXPECT_EQ(largest_gap(values(a), values(b)), 0) << kind;
  }
}

/// A table of `rows` rows and the gradient of a batch that touches few of them, as embeddings give
/// it, or the same gradient dense.
struct TouchedTable {
  OptimizerSite site;
  bool sparse;

  TouchedTable(int64_t rows, at::ScalarType type, bool is_sparse) : sparse(is_sparse) {
    const Tensor start = normal_tensor({rows, 6}, 1.0, RandomStream(4).child("table"));
    site = {{{"table", start.to(type).requires_grad_(true)}}};
  }
  void meet_batch(int64_t step) {
    Tensor& table = site.parameters[0].tensor;
    const Tensor ids = at::tensor({table.size(0) - 1, 3 + step, 3 + step, int64_t{0}, int64_t{17}});
    table.mutable_grad() = Tensor();
    (at::embedding(table, ids, -1, false, true).square() * (step + 2)).sum().backward();
    const Tensor gradient = table.grad().coalesce();
    table.mutable_grad() = sparse ? gradient : gradient.to_dense();
  }
};

TEST(property, optimizer_baselines_sparse_gradients_are_dense_ones) {
  for (const std::string& kind : kinds())
    for (const auto type : {at::kDouble, at::kBFloat16})
      // So many rows that Adam takes them in parts.
      for (const int64_t rows : {int64_t{41}, int64_t{200000}}) {
        if (rows > 41 && kind.substr(0, 4) != "adam") continue;
        TouchedTable sparse(rows, type, true), dense(rows, type, false);
        const auto one = make(kind, sparse.site, {{"weight_decay", 0.1}}),
                   two = make(kind, dense.site, {{"weight_decay", 0.1}});
        for (const int64_t step : {0, 1, 2}) {
          sparse.meet_batch(step);
          dense.meet_batch(step);
          one->step(0.7);
          two->step(0.7);
        }
        EXPECT_LT(largest_gap(values(sparse.site), values(dense.site)),
                  type == at::kDouble ? 1e-13 : 1e-2)
            << kind << " " << rows;
      }
}

TEST(property, optimizer_baselines_clipping_sees_sparse_gradients) {
  for (const char* kind : {"gradient_clipping", "value_clipping"}) {
    TouchedTable sparse(41, at::kDouble, true), dense(41, at::kDouble, false);
    for (TouchedTable* each : {&sparse, &dense}) {
      each->meet_batch(1);
      ConstraintSite site;
      const auto constraint = Choice<Constraint>(kind).make(site);
      constraint->prepare(each->site.parameters);
      constraint->before_step(each->site.parameters);
    }
    const Tensor found = sparse.site.parameters[0].tensor.grad();
    EXPECT_TRUE(found.is_sparse());
    const Tensor expected = dense.site.parameters[0].tensor.grad();
    EXPECT_LT((found.to_dense() - expected).abs().max().item<double>(), 1e-13) << kind;
    EXPECT_LT(expected.norm().item<double>(), 10.0) << kind;  // it was clipped
  }
}

TEST(property, optimizer_baselines_masters_keep_small_steps) {
  for (const std::string& kind : kinds()) {
    OptimizerSite site{{{"p", at::ones({16}, at::kBFloat16).requires_grad_(true)}}};
    const auto optimizer = make(kind, site, {{"lr", 1e-4}, {"weight_decay", 0.0}});
    for (int t = 0; t < 100; ++t) {
      site.parameters[0].tensor.mutable_grad() = at::ones({16}, at::kBFloat16);
      optimizer->step(1.0);
    }
    // One bfloat16 step of 1 is 2^-8 = 0.0039: no single step would show.
    EXPECT_LT(site.parameters[0].tensor.max().item<float>(), 0.999f) << kind;
    EXPECT_EQ(site.parameters[0].tensor.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(at::equal(optimizer->state().at("master.p").to(at::kBFloat16),
                          site.parameters[0].tensor.detach()))
        << kind;
  }
}

std::map<std::string, Tensor> copy_of(const std::map<std::string, Tensor>& state) {
  std::map<std::string, Tensor> copy;
  for (const auto& [name, tensor] : state) copy[name] = tensor.clone();
  return copy;
}

void expect_exact_resume(const std::string& kind, at::ScalarType type, bool saved_in_eval) {
  const OptimizerSite straight = site_of(type), resumed = site_of(type);
  const auto first = make(kind, straight, {{"weight_decay", 0.1}});
  for (int t = 0; t < 13; ++t) {
    give_gradients(straight, t);
    first->step(0.9);
  }
  if (saved_in_eval) first->eval();
  const auto state = copy_of(first->state());
  const auto second = make(kind, resumed, {{"weight_decay", 0.1}});
  const std::vector<Tensor> saved = values(straight);
  for (size_t i = 0; i < saved.size(); ++i) resumed.parameters[i].tensor.detach().copy_(saved[i]);
  second->load_state(state);
  first->train();
  for (int t = 13; t < 26; ++t)
    for (const auto& [site, optimizer] : {std::pair{straight, first}, std::pair{resumed, second}}) {
      give_gradients(site, t);
      optimizer->step(0.8);
    }
  for (const auto& [name, tensor] : first->state())
    EXPECT_TRUE(at::equal(tensor, second->state().at(name))) << kind << " " << name;
  EXPECT_EQ(largest_gap(values(straight), values(resumed)), 0) << kind;
}

TEST(property, optimizer_baselines_resume_is_exact) {
  for (const std::string& kind : kinds())
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const bool saved_in_eval : {false, true}) expect_exact_resume(kind, type, saved_in_eval);
}

TEST(property, optimizer_baselines_state_errors) {
  const OptimizerSite site = site_of();
  const auto adam = make("adam", site);
  give_gradients(site, 0);
  adam->step(1.0);
  const auto good = copy_of(adam->state());
  const std::vector<Tensor> mean = {good.at("mean.matrix").clone()};

  auto bad = copy_of(good);
  bad.erase("square.matrix");
  EXPECT_NE(message_of([&] { adam->load_state(bad); }).find("'square.matrix'"), std::string::npos);
  bad = copy_of(good);
  bad["mean.wide"] = at::zeros({6, 3}, at::kDouble);
  bad["mean.matrix"].zero_();
  const std::string shape = message_of([&] { adam->load_state(bad); });
  EXPECT_NE(shape.find("'mean.wide' has shape [6, 3]"), std::string::npos) << shape;
  EXPECT_TRUE(at::equal(adam->state().at("mean.matrix"), mean[0]));  // nothing was changed
  bad = copy_of(good);
  bad["largest.wide"] = at::zeros({3, 6});
  EXPECT_NE(message_of([&] { adam->load_state(bad); }).find("'largest.wide'"), std::string::npos);
  bad = copy_of(good);
  bad["mean.wide"] = bad["mean.wide"].to(at::kFloat);
  EXPECT_NE(message_of([&] { adam->load_state(bad); }).find("type"), std::string::npos);
  EXPECT_NE(message_of([&] { make("sgd", site)->load_state(good); }).find("momentum"),
            std::string::npos);
  EXPECT_NE(message_of([&] { make("schedule_free", site)->load_state(good); }).find("point."),
            std::string::npos);
}

TEST(property, optimizer_baselines_without_gradient_nothing_moves) {
  for (const std::string& kind : kinds()) {
    const OptimizerSite site = site_of();
    const auto optimizer = make(kind, site, {{"weight_decay", 0.5}});
    const std::vector<Tensor> before = values(site);
    give_gradients(site, 0);
    optimizer->zero_grad();
    optimizer->step(1.0);
    EXPECT_EQ(largest_gap(values(site), before), 0) << kind;
    EXPECT_EQ(optimizer->state().at("steps.matrix").item<int64_t>(), 0) << kind;
  }
}

TEST(property, optimizer_baselines_factors) {
  // rate 0.5 is half the learning rate, decay 0 is no weight decay; the rest is untouched.
  for (const std::string& kind : kinds()) {
    OptimizerSite mixed = site_of();
    mixed.parameters[0].rate = 0.5;
    mixed.parameters[1].decay = 0.0;
    const OptimizerSite full = site_of(), half = site_of(), bare = site_of();
    const auto run = [&](const OptimizerSite& site, double lr, double decay) {
      const auto optimizer = make(kind, site, {{"lr", lr}, {"weight_decay", decay}});
      for (int t = 0; t < 4; ++t) {
        give_gradients(site, t);
        optimizer->step(1.0);
      }
      return values(site);
    };
    const auto result = run(mixed, 0.02, 0.3);
    EXPECT_LT(largest_gap({result[0]}, {run(half, 0.01, 0.3)[0]}), 1e-14) << kind;
    EXPECT_LT(largest_gap({result[1]}, {run(bare, 0.02, 0.0)[1]}), 1e-14) << kind;
    const auto plain = run(full, 0.02, 0.3);
    EXPECT_LT(largest_gap({result[2]}, {plain[2]}), 1e-14) << kind;
    EXPECT_GT(largest_gap({result[1]}, {plain[1]}), 1e-6) << kind;
  }
}

TEST(property, optimizer_baselines_skip_nonfinite) {
  for (const std::string& kind : kinds()) {
    const OptimizerSite site = site_of();
    const auto optimizer = make(kind, site, {{"skip_nonfinite", true}});
    for (int t = 0; t < 2; ++t) {
      give_gradients(site, t);
      optimizer->step(1.0);
    }
    const std::vector<Tensor> before = values(site);
    give_gradients(site, 2);
    site.parameters[2].tensor.mutable_grad()[1] = INFINITY;
    optimizer->step(1.0);
    EXPECT_EQ(largest_gap(values(site), before), 0) << kind;
    EXPECT_EQ(optimizer->skipped(), 1) << kind;
    EXPECT_EQ(optimizer->state().at("steps.matrix").item<int64_t>(), 2) << kind;
  }
}

TEST(property, optimizer_baselines_descends) {
  // ½|p - target|² falls for every optimizer.
  for (const std::string& kind : kinds()) {
    const OptimizerSite site = site_of();
    const std::vector<Tensor> target = values(site_of());
    for (const Parameter& parameter : site.parameters) parameter.tensor.detach().add_(1.0);
    const auto optimizer = make(kind, site, {{"weight_decay", 0.0}, {"lr", 0.05}});
    for (int t = 0; t < 60; ++t) {
      for (size_t i = 0; i < target.size(); ++i)
        site.parameters[i].tensor.mutable_grad() = site.parameters[i].tensor.detach() - target[i];
      optimizer->step(1.0);
    }
    optimizer->eval();
    EXPECT_LT(largest_gap({values(site)[0]}, {target[0]}), 0.6) << kind;
  }
}

TEST(property, optimizer_baselines_option_errors) {
  const auto said = [](const std::string& kind, const Table& options) {
    return message_of([&] { make(kind, site_of(), options); });
  };
  const auto names = [](const std::string& text, const std::string& key) {
    return text.find(key) != std::string::npos;
  };
  for (const std::string& kind : kinds()) {
    EXPECT_TRUE(names(said(kind, {{"lr", -1.0}}), "lr")) << kind;
    EXPECT_TRUE(names(said(kind, {{"weight_decay", -1.0}}), "weight_decay")) << kind;
  }
  EXPECT_TRUE(names(said("sgd", {{"momentum", 0.0}, {"nesterov", true}}), "nesterov"));
  EXPECT_TRUE(names(said("sgd", {{"dampening", 0.1}, {"nesterov", true}}), "nesterov"));
  EXPECT_TRUE(names(said("adamw", {{"beta1", 1.0}}), "beta1"));
  EXPECT_TRUE(names(said("adamw", {{"beta2", -0.1}}), "beta2"));
  EXPECT_TRUE(names(said("adamw", {{"eps", -1e-8}}), "eps"));
  EXPECT_TRUE(names(said("adamw", {{"decay", "l2"}}), "decay"));
  EXPECT_TRUE(names(said("schedule_free", {{"beta1", 0.0}}), "beta1"));
  EXPECT_TRUE(names(said("adamw", {{"bta1", 0.5}}), "beta1"));
  OptimizerSite twice = site_of();
  twice.parameters[1].name = "matrix";
  EXPECT_TRUE(names(message_of([&] { make("adam", twice); }), "'matrix'"));
  OptimizerSite integer{{{"n", at::zeros({2}, at::kLong)}}};
  EXPECT_TRUE(names(message_of([&] { make("adam", integer); }), "'n'"));
  EXPECT_TRUE(Choice<Optimizer>("schedule_free").traits().own_schedule);
  EXPECT_FALSE(Choice<Optimizer>("adamw").traits().own_schedule);
}

}  // namespace
}  // namespace formwork
