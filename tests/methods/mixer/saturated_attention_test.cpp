// The mixer with saturated, hard and soft weights: specification saturated_attention.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/mixer/observed.h"
#include "methods/mixer/saturated_weights.h"
#include "support/dynamic.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

TEST(property, saturated_attention_of_one_token_is_its_value) {
  const c10::NoGradGuard no_grad;
  for (const char* weights : {"soft", "saturated", "hard_left", "hard_right", "hard_random"}) {
    const auto mixer = MixerCase{"saturated_attention", {{"weights", Value(weights)}}}.make();
    const Tensor x = random_tensor({2, 1, 12}, 6);
    const auto p = mixer->named_tensors();
    expect_near(weights, run(*mixer, x),
                at::linear(at::linear(x, p.at("v_proj.weight")), p.at("out_proj.weight")));
  }
}

TEST(property, saturated_attention_gradients) {
  const auto gradients = [](const Table& options) {
    MixerCase what{"saturated_attention", options};
    what.position = "alibi";
    const auto mixer = what.make();
    const Tensor x = random_tensor({2, 7, 12}, 8);
    (run(*mixer, x) * random_tensor({2, 7, 12}, 9)).sum().backward();
    std::map<std::string, Tensor> found;
    for (const Parameter& parameter : mixer->parameters())
      found[parameter.name] = parameter.tensor.grad();
    return found;
  };
  const Value straight("straight_through"), sharp(2.5);
  const auto soft = gradients({{"weights", Value("soft")}, {"inverse_temperature", sharp}});
  for (const char* weights : {"saturated", "hard_left", "hard_random"}) {
    const Value kind(weights);
    const auto zero = gradients({{"weights", kind}});
    const auto through =
        gradients({{"weights", kind}, {"gradient", straight}, {"ste_temperature", sharp}});
    for (const char* name : {"q_proj.weight", "k_proj.weight"}) {
      EXPECT_FALSE(zero.at(name).defined()) << name;
      expect_near(name, through.at(name), soft.at(name));
    }
    for (const char* name : {"v_proj.weight", "out_proj.weight"})
      expect_near(name, through.at(name), zero.at(name));
  }
}

TEST(property, saturated_attention_straight_through_keeps_the_output) {
  const Tensor x = random_tensor({2, 7, 12}, 10).requires_grad_(true);
  const auto zero = MixerCase{"saturated_attention", {}}.make();
  const auto through =
      MixerCase{"saturated_attention", {{"gradient", Value("straight_through")}}}.make();
  EXPECT_TRUE(run(*zero, x).equal(run(*through, x)));
}

TEST(property, saturated_attention_soft_is_softmax) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 7, 12}, 11);
  for (const bool causal : {false, true}) {
    for (const char* position : {"none", "rotary", "alibi"}) {
      MixerCase soft{"saturated_attention", {{"weights", Value("soft")}}, causal};
      MixerCase plain{"softmax", {}, causal};
      soft.position = plain.position = position;
      expect_near(position, run(*soft.make(), x), run(*plain.make(), x));
      // Growing scores, biases with them: the saturated mixer.
      soft.options.emplace_back("inverse_temperature", Value(1e6));
      MixerCase limit{"saturated_attention", {}, causal};
      limit.position = position;
      expect_near(position, run(*soft.make(), x), run(*limit.make(), x), 1e-9);
    }
  }
}

TEST(property, saturated_attention_groups_and_padding) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 8, 16}, 12);
  for (const char* weights : {"saturated", "hard_left", "hard_right"}) {
    const Table options{{"weights", Value(weights)},
                        {"kv_heads", Value(int64_t{2})},
                        {"tie_tolerance", Value(0.3)}};
    for (const bool causal : {false, true}) {
      const auto mixer = MixerCase{"saturated_attention", options, causal, 16, 4}.make();
      Tensor valid = lengths_mask({8, 5}, 8);
      const Tensor short_row = run(*mixer, x.narrow(0, 1, 1).narrow(1, 0, 5))[0];
      expect_near("right padding", run(*mixer, x, valid)[1].narrow(0, 0, 5), short_row);
      valid[0].fill_(false);
      valid[1][0].fill_(false);
      const Tensor left = run(*mixer, x.narrow(0, 1, 1).narrow(1, 1, 4))[0];
      const Tensor y = run(*mixer, x, valid);
      expect_near("a hole", y[1].narrow(0, 1, 4), left);
      EXPECT_EQ(y[0].abs().max().item<double>(), 0.0);  // nothing to look at
    }
  }
}

TEST(property, saturated_attention_schedules_of_the_divergence) {
  const auto losses = [](const char* schedule, double fraction, bool training) {
    const auto mixer = MixerCase{
        "saturated_attention",
        {{"weights", Value("soft")},
         {"kl_schedule", Value(schedule)},
         {"kl_weight",
          Value(3.0)}}}.make();
    mixer->train(training);
    mixer->before_step({5, fraction});
    Stream stream;
    stream.valid = lengths_mask({6, 3}, 6);
    mixer->forward(random_tensor({2, 6, 12}, 13), stream);
    return stream.losses.empty() ? 0.0 : stream.losses.at(0).item<double>();
  };
  const double whole = losses("constant", 0.25, true);
  EXPECT_GT(whole, 0.1);
  EXPECT_EQ(losses("constant", 0.25, false), 0.0);
  EXPECT_EQ(losses("none", 0.75, true), 0.0);
  EXPECT_NEAR(losses("linear", 0.75, true), 0.75 * whole, 1e-12);
  EXPECT_EQ(losses("ramp", 0.5, true), 0.0);
  EXPECT_NEAR(losses("ramp", 0.75, true), 0.5 * whole, 1e-12);
  EXPECT_EQ(losses("phased", 0.4, true), 0.0);
  EXPECT_NEAR(losses("phased", 0.6, true), whole, 1e-12);
}

TEST(property, saturated_attention_observed) {
  const Tensor x = random_tensor({2, 5, 12}, 14);
  const auto mixer = MixerCase{"saturated_attention", {{"tie_tolerance", Value(0.4)}}}.make();
  const Tensor weights = observed(*mixer, x, "attention");
  EXPECT_TRUE(weights.equal(chosen_weights(
      chosen_keys(observed(*mixer, x, "scores"), Chosen::saturated, 0.4), at::kDouble)));
  expect_near("causal", weights.triu(1), at::zeros_like(weights), 0.0);
}

TEST(property, saturated_attention_refusals) {
  for (const char* weights : {"saturated", "hard_left", "soft"}) {
    Site site = plain_site(12, 2);
    site.attention_dropout = 0.1;
    const Choice<Mixer> choice =
        Choice<Mixer>("saturated_attention").set({{"weights", Value(weights)}});
    if (weights == std::string("soft")) {
      EXPECT_NE(choice.make(site), nullptr);
    } else {
      expect_refused([&] { choice.make(site); }, "dropout");
    }
  }
  const auto refused = [](const Table& options, const char* key) {
    expect_refused([&] { MixerCase{"saturated_attention", options}.make(); }, key);
  };
  refused({{"tie_tolerance", Value(-0.1)}}, "tie_tolerance");
  refused({{"inverse_temperature", Value(0.0)}}, "inverse_temperature");
  refused({{"weights", Value("hard")}}, "hard_left");
  refused({{"kv_heads", Value(int64_t{3})}}, "kv_heads");
  MixerCase across{"saturated_attention", {}};
  across.cross = true;
  expect_refused([&] { across.make(); }, "another sequence");
}

const TestSource saturated_attention_decoding([] {
  const Table near{{"tie_tolerance", Value(0.5)}};
  const std::vector<std::pair<std::string, Table>> all{
      {"saturated", near},
      {"soft", {{"weights", Value("soft")}, {"kv_heads", Value(int64_t{2})}}},
      {"hard_left", {{"weights", Value("hard_left")}}},
      {"hard_random", {{"weights", Value("hard_random")}, {"tie_tolerance", Value(1.0)}}},
  };
  for (const auto& [name, options] : all) {
    for (const char* position : {"none", "rotary", "alibi"}) {
      MixerCase what{"saturated_attention", options, true, 24, 6};
      what.position = position;
      add_test("property.decode_state", "saturated_attention_" + name + "_" + position,
               [what] { check_decoding(*what.make(), what.width); });
    }
  }
});

}  // namespace
}  // namespace formwork::test
